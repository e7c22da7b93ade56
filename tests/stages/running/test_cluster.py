"""Pieces of work on a Ray cluster of two nodes: the same results in the same order, also when a node dies meanwhile."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from stages import curate as curating
from stages import ingest as ingesting
from stages import render as rendering
from stages import sample as sampling
from stages import validate as validating
from stages.running.compute import Compute, use, used
from stages.running.section import read_params
from stages.running.workers import mapped

HEAD, OTHER, PORT = "127.0.0.2", "127.0.0.3", 26399
"""Two nodes of one machine are told apart by their addresses, and all of 127 is loopback."""


def test_ray_wants_an_address_and_local_wants_none():
    with pytest.raises(ValueError, match="must be the cluster's where engine is ray, got None"):
        Compute(engine="ray", address=None, processes=2)
    with pytest.raises(ValueError, match="must be null where engine is local, got 'auto'"):
        Compute(engine="local", address="auto", processes=2)


@contextmanager
def node(folder: Path, *words: str):
    """A node in a process of its own; killed at the end, with all that it started."""
    ray = Path(sys.executable).with_name("ray")
    log = (folder / "ray.log").open("a")
    words = (str(ray), "start", "--block", "--disable-usage-stats", "--num-cpus=1", "--object-store-memory=100000000", *words)
    one = psutil.Popen(words, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "RAY_TMPDIR": str(folder)})
    try:
        yield one
    finally:
        kill(one)
        log.close()


def kill(one: psutil.Popen) -> None:
    if one.is_running():
        for process in [*one.children(recursive=True), one]:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
    one.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes; the second is yielded, so that it may be killed."""
    ray = pytest.importorskip("ray")
    # A socket's path has room for some hundred letters.
    folder = Path(f"/tmp/tandem-ray-{os.getpid()}")
    folder.mkdir()
    before = used()
    with (
        node(folder, "--head", f"--node-ip-address={HEAD}", f"--port={PORT}", "--include-dashboard=false"),
        node(folder, f"--address={HEAD}:{PORT}", f"--node-ip-address={OTHER}") as other,
    ):
        use(Compute(engine="ray", address=f"{HEAD}:{PORT}", processes=2))
        deadline = time.monotonic() + 60
        while True:
            try:
                ray.init(address=f"{HEAD}:{PORT}", _node_ip_address=HEAD, log_to_driver=False, logging_level="error")
                break
            except (ConnectionError, RuntimeError):
                assert time.monotonic() < deadline, (folder / "ray.log").read_text()
                time.sleep(0.5)
        while ray.cluster_resources().get("CPU") != 2.0:
            assert time.monotonic() < deadline, "the second node does not come"
            time.sleep(0.2)
        yield other
        ray.shutdown()
        use(before)


def doubler():
    """A class that goes along with the work, because no module of the cluster's has it."""

    class Doubler:
        def __init__(self, pause):
            self.pause = pause

        def __call__(self, piece):
            import ray

            if piece == "fault":
                raise ValueError("a fault")
            time.sleep(self.pause)
            doubled = pa.compute.multiply(piece["number"], 2)
            return pa.table({"number": doubled}), ray.get_runtime_context().get_node_id()

    return Doubler


def tables(number):
    return [pa.table({"number": list(range(first, first + 3))}) for first in range(number)]


@pytest.mark.slow
def test_a_fault_reaches_who_asked_in_its_own_words(cluster):
    with pytest.raises(ValueError, match=r"^a fault$"):
        list(mapped(doubler(), (0.0,), [*tables(1), "fault"]))


@pytest.mark.slow
def test_a_node_that_dies_in_the_middle_loses_nothing_and_the_results_are_those_of_this_machine(cluster):
    nodes, done = set(), []
    for number, (table, where) in enumerate(mapped(doubler(), (0.2,), tables(40))):
        nodes.add(where)
        done.append(table)
        if number == 10:
            assert len(nodes) == 2, "both nodes work"
            kill(cluster)
    expected = [pa.table({"number": [2 * value for value in table["number"].to_pylist()]}) for table in tables(40)]
    assert done == expected


PARAMS = read_params(Path(__file__).parents[3] / "params.yaml")


def data_half(folder: Path, model: Path) -> dict[str, str]:
    """What each file holds that the stages of the data half write, of small pieces of the embedded collection."""
    small = PARAMS["sample"] | {"scenes": 40, "captions": 40, "chats": 60, "benchmark_images": 4, "digits_held_out": 20}
    sampling.sample(sampling.Params.model_validate(small), folder / "data/sample")
    data = folder / "data"
    reading = ingesting.Params.model_validate(PARAMS["ingest"] | {"shard_rows": 1500})
    for source, about in PARAMS["ingest"]["sources"].items():
        ingesting.ingest(reading, source, folder / about["folder"], data / "ingest" / source)
    (folder / "accepted").mkdir()
    allowed = validating.Params.model_validate(PARAMS["validate"])
    validating.validate(allowed, data / "ingest", folder / "accepted", data / "validate")
    chosen = curating.Params.model_validate(PARAMS["curate"])
    curating.curate(chosen, data / "validate", data / "ingest", data / "sample/benchmarks", "30", data / "curate")
    (data / "render").mkdir()
    written = rendering.Params.model_validate(PARAMS["render"])
    rendering.render(written, data / "curate", data / "ingest", model, data / "render")
    files = (path for path in sorted(data.rglob("*")) if path.is_file())
    return {path.relative_to(data).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_the_data_half_writes_the_same_bytes_on_a_cluster_of_which_a_node_died_as_on_this_machine(
    cluster, tmp_path, tiny_model, monkeypatch
):
    found = {}
    on_cluster = used()
    for name, compute in (("here", Compute(engine="local", address=None, processes=1)), ("there", on_cluster)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        use(compute)
        found[name] = data_half(tmp_path / name, tiny_model)
    assert found["here"] == found["there"]
    assert len(found["here"]) > 30
