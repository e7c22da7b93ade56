"""Run the loop in this process, or in several on this machine.

Several are what `accelerate launch` would start, and Accelerate finds in each what it looks for; but that one meets through a
server that listens on every interface. These meet in a file, and talk over loopback only.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from stages.corpus import shards
from stages.models.device import resolve_device
from stages.running.garbage import imported, importing
from stages.running.leash import follow_parent
from stages.tuning.params import Tuning

PATHS = ("rendered", "former", "ingested", "base", "model", "metrics", "curve", "ledger")
STARTER = "TANDEM_STARTER"
"""Names the process that started this one, to which it belongs: if that is gone before this one looks, another took it in."""
REFUSED = 2
"""Exit status of a process that was given something wrong."""
REFUSAL = "refusal-{}"
"""The file, beside the job, in which the process of that rank says what was wrong: whoever is first ends the others."""


def launch(stage: str, params: Tuning, *paths: Path) -> None:
    """`tune(stage, params, *paths)` in as many processes as `params` ask for, on GPUs at most one for each.

    Raises:
        ValueError: the params or the trees cannot be tuned with: nothing was begun, or a process refused them.
        RuntimeError: a process ended badly; what it said stands above.
    """
    params = divided(stage, params)
    if not shards.rows(paths[0]):
        raise ValueError(f"{stage} has no trees to learn from; see the ledger for why its rows ended elsewhere")
    if params.processes == 1:
        importing()
        from stages.tuning.loop import tune  # here, for it takes seconds, and who starts others need not wait

        imported()
        tune(stage, params, *paths)
        return
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.json"
        job.write_text(
            json.dumps({"stage": stage, "params": params.model_dump(), **dict(zip(PATHS, map(str, paths), strict=True))})
        )
        words = [sys.executable, "-u", "-m", "stages.tuning.launch", str(job)]
        started = [subprocess.Popen(words, env=environment(params, rank)) for rank in range(params.processes)]
        statuses = ended(started)
        refusals = [path.read_text(encoding="utf-8") for path in sorted(job.parent.glob(REFUSAL.format("*")))]
    if any(refusals):
        raise ValueError(next(filter(None, refusals)))  # one that was killed while it wrote has said nothing
    if any(statuses):
        raise RuntimeError(f"{stage} in {params.processes} processes ended with statuses {statuses}; what they said is above")


def divided(stage: str, params: Tuning) -> Tuning:
    """`params` with as many processes as they say, but no more than GPUs where it runs on GPUs.

    Raises:
        ValueError: a step cannot be divided among so few.
    """
    if resolve_device(params.device) == "cpu" or torch.cuda.device_count() >= params.processes:
        return params
    gpus = torch.cuda.device_count()
    if params.step_unit == "trees" and params.step_size % gpus:
        raise ValueError(
            f"{stage}.processes is {params.processes}, but there are {gpus} GPUs, and {stage}.step_size "
            f"{params.step_size} is no multiple of that; change one of them in params.yaml"
        )
    return params.model_copy(update={"processes": gpus})


def environment(params: Tuning, rank: int) -> dict[str, str]:
    """What process number `rank` finds around it."""
    # Each process gets its threads, and finds the project wherever it stands.
    here = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    count = str(params.processes)
    starter = {STARTER: str(os.getpid())}
    places = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    sockets = dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), loopback())
    cpu = {"ACCELERATE_USE_CPU": "true"} if resolve_device(params.device) == "cpu" else {}
    return {**os.environ, **starter, **places, **sockets, **cpu, "OMP_NUM_THREADS": str(params.threads), "PYTHONPATH": here}


def loopback() -> str:
    """The name of this machine's loopback interface."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.family == socket.AF_INET and one.address.startswith("127.") for one in addresses):
            return name
    raise RuntimeError("this machine has no loopback interface, over which several processes talk; set processes: 1")


def ended(started: Sequence["subprocess.Popen[bytes]"]) -> list[int]:
    """The exit statuses of all, once all have ended; where one ends badly, the others, who would wait for it, are killed."""
    while any(process.poll() is None for process in started):
        if any(process.poll() for process in started):
            for process in started:
                process.kill()
        time.sleep(0.1)
    return [process.returncode for process in started]


def main() -> None:
    """One process of several: do the job whose file is the only argument."""
    if os.getppid() != int(os.environ[STARTER]):
        sys.exit("the process that started this one was gone before this one was ready; ending too")
    follow_parent()
    job = json.loads(Path(sys.argv[1]).read_text())
    params = Tuning.model_validate(job["params"])
    rank, device = int(os.environ["RANK"]), resolve_device(params.device)
    if device == "cuda":
        torch.cuda.set_device(rank)
    place = str(Path(sys.argv[1]).with_name("meeting"))
    meeting = torch.distributed.FileStore(place, params.processes)  # type: ignore[attr-defined]
    torch.distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo", store=meeting, rank=rank, world_size=params.processes
    )
    from stages.tuning.loop import tune

    imported()
    try:
        tune(job["stage"], params, *(Path(job[name]) for name in PATHS))
    except (ValueError, FileNotFoundError) as error:
        if os.environ.get("TANDEM_TRACEBACK"):
            raise
        Path(sys.argv[1]).with_name(REFUSAL.format(rank)).write_text(str(error), encoding="utf-8")
        sys.exit(REFUSED)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
