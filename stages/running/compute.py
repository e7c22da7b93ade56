"""Where pieces of work are done. No output depends on it, so no stage runs again because of it."""

from typing import Literal

from pydantic import PositiveInt

from stages.running.section import Section


class Compute(Section):
    """Which processes share a stage's pieces of work."""

    engine: Literal["local", "ray"]
    """local: processes of this machine; ray: of a cluster."""
    address: str | None
    """The cluster's address, host:port or auto; null with local."""
    processes: PositiveInt
    """So many at once."""


_used = Compute(engine="local", address=None, processes=1)


def use(compute: Compute) -> None:
    """From now on, this process has its pieces of work done so."""
    global _used
    _used = compute


def used() -> Compute:
    """How this process has its pieces of work done; alone, unless someone said otherwise."""
    return _used
