"""Everything to watch, at one command: `python -m flows.ui` (`make ui`) starts it all on loopback, until Ctrl-C.

Prefect's server with the deployments applied and a worker beside it, MLflow's UI, and the pages that the chain writes.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from flows.artifacts import MLFLOW_URL, REPORT_URL
from stages.running.command import WORK

HOST = "127.0.0.1"
PORTS = {"TANDEM_PREFECT_PORT": 4200, "TANDEM_MLFLOW_PORT": 5000, "TANDEM_PAGES_PORT": 8080}
"""The environment variables that choose another port, and the ports without them."""
POOL = "local-process"
PATIENCE_SECONDS = 180


class Service:
    """A child process on a leash, its output in a file."""

    def __init__(self, name: str, words: list[str], environment: dict[str, str], logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        # A session of its own, so that Ctrl-C reaches only us and the worker can be stopped before the server.
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stages.running.leash", *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def fault(self) -> str | None:
        """Why it no longer runs, or None if it does."""
        if self.process.poll() is None:
            return None
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        return f"{self.name} ended with status {self.process.returncode}; the end of {self.log}:\n{tail}"

    def wait_for(self, url: str) -> None:
        """Return as soon as `url` answers.

        Raises:
            ValueError: the service ended, or took too long.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            if fault := self.fault():
                raise ValueError(fault)
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(url, timeout=5).close()
                return
            time.sleep(0.2)
        raise ValueError(f"{self.name} did not answer at {url} within {PATIENCE_SECONDS} s; see {self.log}")

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def main() -> int:
    """Start all services, say where they are, and stop them when asked to or when one of them ends."""
    for asked_to_stop in (signal.SIGINT, signal.SIGTERM):
        # SIGINT too: a shell that starts us in the background has it ignored, and what we start would inherit that.
        signal.signal(asked_to_stop, signal.default_int_handler)
    root = Path.cwd()
    started: list[Service] = []
    # A place of our own: Prefect's worker keeps its runs below the temporary folder under a name that all users share,
    # and whoever comes second may not write there.
    place = tempfile.TemporaryDirectory(prefix="tandem-ui-", ignore_cleanup_errors=True)
    try:
        for address in _start(root, place.name, started):
            print(address, flush=True)
        while not (faults := [fault for service in started if (fault := service.fault())]):
            time.sleep(0.5)
        raise ValueError("\n".join(faults))
    except KeyboardInterrupt:
        return 0
    except ValueError as error:
        print(f"ui: {error}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if started:
            print("stopping …", flush=True)
        for service in reversed(started):
            service.stop()
        place.cleanup()


def _start(root: Path, temporary: str, started: list[Service]) -> Iterator[str]:
    """Start the services into `started`, each stopped before those that come earlier; yield where each is."""
    prefect_port, mlflow_port, pages_port = (_port(variable) for variable in PORTS)
    prefect, mlflow = f"http://{HOST}:{prefect_port}", f"http://{HOST}:{mlflow_port}"
    pages = f"http://{HOST}:{pages_port}"
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    if tracking.startswith(("http:", "https:")):
        mlflow = tracking
    logs = root / WORK / "ui"
    logs.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "TMPDIR": temporary,
        "DO_NOT_TRACK": "true",
        # Absolute, unlike in prefect.toml: a run begins in a temporary folder.
        "PREFECT_HOME": os.environ.get("PREFECT_HOME", str(root / ".prefect")),
        "PREFECT_API_URL": f"{prefect}/api",
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(prefect_port),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        REPORT_URL: pages,
        MLFLOW_URL: mlflow,
    }

    def start(name: str, *words: str) -> Service:
        started.append(Service(name, list(words), environment, logs))
        return started[-1]

    server = start("prefect-server", "prefect", "server", "start", "--host", HOST, "--port", str(prefect_port))
    pages_server = start("pages", "flows.pages", HOST, str(pages_port))
    mlflow_server = None
    if mlflow != tracking:
        store = tracking or f"sqlite:///{root / 'mlflow.db'}"
        words = ["--backend-store-uri", store, "--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
        mlflow_server = start("mlflow", "mlflow", "server", *words)
    server.wait_for(f"{prefect}/api/health")
    _run("flows.settle", environment)
    _run("prefect", environment, "--no-prompt", "deploy", "--all")
    start("prefect-worker", "prefect", "worker", "start", "--pool", POOL, "--name", "tandem")
    yield f"Prefect  {prefect}/deployments"
    if mlflow_server is not None:
        mlflow_server.wait_for(f"{mlflow}/health")
    yield f"MLflow   {mlflow}"
    pages_server.wait_for(pages)
    yield f"report   {pages}"
    yield "Ctrl-C stops them all"


def _run(module: str, environment: dict[str, str], *words: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *words], env=environment, text=True, capture_output=True)
    if done.returncode:
        raise ValueError(f"{' '.join([module, *words])} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _port(variable: str) -> int:
    given = os.environ.get(variable, str(PORTS[variable]))
    if not given.isdecimal() or not 0 < int(given) < 65536:
        raise ValueError(f"{variable} must be a port number from 1 to 65535, got '{given}'")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(given)))
        except OSError as error:
            raise ValueError(
                f"port {given} of {HOST} cannot be had ({error.strerror}); stop what uses it, or choose another: "
                f"{variable}={int(given) + 10} make ui"
            ) from None
    return int(given)


if __name__ == "__main__":
    sys.exit(main())
