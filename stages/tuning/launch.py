"""Run the loop in this process, or in several through accelerate."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from stages.models.loading import resolve_device
from stages.running.leash import follow_parent
from stages.tuning.loop import tune
from stages.tuning.params import Tuning

PATHS = ("rendered", "former", "ingested", "base", "model", "metrics", "curve")


def launch(stage: str, params: Tuning, *paths: Path) -> None:
    """`tune(stage, params, *paths)` in as many processes as `params` and this machine's GPUs call for.

    Raises:
        ValueError: the processes ended badly; what they said stands above.
    """
    params = params.model_copy(update={"processes": processes(params)})
    if params.processes == 1:
        tune(stage, params, *paths)
        return
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.json"
        job.write_text(
            json.dumps({"stage": stage, "params": params.model_dump(), **dict(zip(PATHS, map(str, paths), strict=True))})
        )
        # On a leash, or the launcher would outlive a killed stage, and its processes with it.
        words = [sys.executable, "-m", "stages.running.leash", "accelerate.commands.launch"]
        words += ["--num_processes", str(params.processes)]
        # --multi_gpu on CPU too: with --cpu, accelerate would run a single process without a word about it.
        words += ["--num_machines", "1", "--multi_gpu", "--mixed_precision", "no", "--dynamo_backend", "no"]
        words += ["--main_process_port", "0", "-m", "stages.tuning.launch", str(job)]
        # Each process gets all its threads (torch's launcher would set one), and finds the project wherever it stands.
        here = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = {**os.environ, "OMP_NUM_THREADS": str(params.threads), "PYTHONPATH": here}
        if resolve_device(params.device) == "cpu":
            environment["ACCELERATE_USE_CPU"] = "true"
        done = subprocess.run(words, env=environment, check=False)
    if done.returncode:
        raise ValueError(
            f"{stage} in {params.processes} processes ended with status {done.returncode}; what they said is above"
        )


def processes(params: Tuning) -> int:
    """On CPU what `params` say; on GPUs one for each that this process can see (CUDA_VISIBLE_DEVICES narrows that)."""
    return torch.cuda.device_count() if resolve_device(params.device) == "cuda" else params.processes


def main() -> None:
    """One process of several: do the job whose file is the only argument."""
    follow_parent()
    job = json.loads(Path(sys.argv[1]).read_text())
    tune(job["stage"], Tuning.model_validate(job["params"]), *(Path(job[name]) for name in PATHS))


if __name__ == "__main__":
    main()
