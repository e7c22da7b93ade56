"""The stages and what each needs, read from DVC: the graph is written once, in dvc.yaml, and never repeated here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

META = {"gpu", "retries"}
"""What a stage's `meta:` in dvc.yaml may say; a misspelt key would otherwise be ignored in silence."""


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml, as far as a scheduler cares."""

    name: str
    """As DVC addresses it: `curate`, or `ingest@tasks` for one of a `foreach`."""
    needs: tuple[str, ...]
    """Names of the stages whose outputs it reads."""
    gpu: bool
    """It wants the GPU to itself."""
    retries: int
    """How often to try again after a failure that is not the user's mistake."""


def read_stages(root: Path) -> list[Stage]:
    """All stages of the project at `root`, in the order in which `dvc repro` visits them: each after what it needs.

    Raises:
        ValueError: a stage's `meta:` has a key or a value that no scheduler here understands.
    """
    # Costs a third of a second, which a worker that only looks at this file should not pay.
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, plan_repro

    with Repo(str(root)) as repo:
        graph = repo.index.graph
        return [
            _stage(stage.name, stage.meta, [need.name for need in graph.successors(stage)])
            for stage in plan_repro(graph, collect_stages(repo, [str(root / "dvc.yaml")]))
        ]


def upto(stages: Sequence[Stage], targets: Sequence[str] | None) -> list[Stage]:
    """The stages of `targets` and all they need, in order, as `dvc repro TARGET…` would bring them up to date.

    A target is a stage's name, or the name before the `@` for all of a `foreach`; None stands for every stage.

    Raises:
        ValueError: a target is no stage.
    """
    if targets is None:
        return list(stages)
    by_name = {stage.name: stage for stage in stages}
    wanted: set[str] = set()
    for target in targets:
        meant = [name for name in by_name if target in (name, name.partition("@")[0])]
        if not meant:
            raise ValueError(f"dvc.yaml has no stage '{target}'; it has {', '.join(by_name)}")
        wanted.update(meant)
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted.update(stage.needs)
    return [stage for stage in stages if stage.name in wanted]


def awaited(stage: Stage, stages: Sequence[Stage]) -> list[str]:
    """Of what `stage` needs, the stages that no other stage it needs has waited for already."""
    by_name = {stage.name: stage for stage in stages}

    def before(name: str) -> set[str]:
        return {name}.union(*(before(need) for need in by_name[name].needs))

    implied = {earlier for need in stage.needs for earlier in before(need) - {need}}
    return [need for need in stage.needs if need not in implied]


def _stage(name: str, meta: object, needs: Sequence[str]) -> Stage:
    meta = {} if meta is None else meta
    where = f"dvc.yaml: meta of stage '{name}'"
    if not isinstance(meta, dict) or not meta.keys() <= META:
        raise ValueError(f"{where} must be a mapping with no other keys than {', '.join(sorted(META))}, got {meta!r}")
    gpu, retries = meta.get("gpu", False), meta.get("retries", 0)
    if not isinstance(gpu, bool):
        raise ValueError(f"{where}: gpu must be true or false, got {gpu!r}")
    if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
        raise ValueError(f"{where}: retries must be a whole number of tries, 0 or more, got {retries!r}")
    return Stage(name, tuple(sorted(needs)), gpu, retries)
