"""Where pieces of work are done. No output depends on it, so no stage runs again because of it."""

from typing import Literal, Self

from pydantic import PositiveInt, model_validator

from stages.running.section import Section


class Compute(Section):
    """Which processes share a stage's pieces of work."""

    engine: Literal["local", "ray"]
    """local: processes of this machine; ray: of a cluster. `ingest` reads files that lie here, and does it here either way."""
    address: str | None
    """The cluster's address, host:port or auto; null with local."""
    processes: PositiveInt
    """So many at once."""

    @model_validator(mode="after")
    def _a_cluster_has_an_address(self) -> Self:
        if (self.engine == "ray") != (self.address is not None):
            wanted = "must be the cluster's" if self.engine == "ray" else "must be null"
            raise ValueError(f"address {wanted} where engine is {self.engine}, got {self.address!r}")
        return self


_used = Compute(engine="local", address=None, processes=1)


def use(compute: Compute) -> None:
    """From now on, this process has its pieces of work done so."""
    global _used
    _used = compute


def used() -> Compute:
    """How this process has its pieces of work done; alone, unless someone said otherwise."""
    return _used
