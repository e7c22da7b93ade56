"""Pieces of work on a Ray cluster: what `mapped` does when params.yaml says `compute.engine: ray`.

The cluster is the user's: nothing here starts one. Its nodes need this project's packages; the code of the stages goes along
with the work. A node that dies takes nothing with it, since its pieces are done again elsewhere, and what comes out is the
same wherever it was done. Paths among what the work is made of must lead to the same files on every node, from the root on.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import stages
from stages.running.compute import Compute

Piece = TypeVar("Piece")
Result = TypeVar("Result")

AHEAD = 2
"""Pieces handed out beforehand for each one that is being done."""
TRIES = 5
"""A piece is done again when its node or process died; not when the work itself refused it."""

_calls = count()
_made: dict[str, Callable[[Any], Any]] = {}
"""In a process of the cluster: the work it has made, by the call it belongs to."""


def mapped_on_cluster(
    make: Callable[..., Callable[[Piece], Result]], given: tuple[Any, ...], pieces: Iterable[Piece], compute: Compute
) -> Iterator[Result]:
    """`work(piece)` of every piece, in their order, on the cluster at `compute.address`.

    Paths among `given` may be relative to this process's folder, which is not where the cluster's processes run.

    Raises:
        ValueError: Ray is not installed, or there is no cluster at that address.
        Whatever `make` or `work` raised.
        RuntimeError: processes that did a piece died `TRIES` times.
    """
    ray = _connected(compute)
    do = ray.remote(_do).options(max_retries=TRIES, num_cpus=1)
    call = f"{ray.get_runtime_context().get_job_id()}-{next(_calls)}"
    work = ray.put((make, tuple(word.absolute() if isinstance(word, Path) else word for word in given)))
    waiting: deque[Any] = deque()
    try:
        for piece in pieces:
            waiting.append(do.remote(call, work, piece))
            if len(waiting) == AHEAD * compute.processes:
                yield _result(ray, waiting.popleft())
        while waiting:
            yield _result(ray, waiting.popleft())
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


def _do(call: str, work: tuple[Callable[..., Callable[[Any], Any]], tuple[Any, ...]], piece: Any) -> Any:
    if call not in _made:
        make, given = work
        _made.clear()  # of an earlier call; this process may belong to several in turn
        _made[call] = make(*given)
    return _made[call](piece)


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"a piece of work was lost {TRIES + 1} times with the process that did it: {error}") from error


def _connected(compute: Compute) -> Any:
    try:
        import ray  # an extra: most have no cluster
    except ImportError as error:
        raise ValueError(
            "compute.engine is ray, and Ray is not installed: pip install -c constraints.txt -e '.[ray]', or change params.yaml"
        ) from error
    if not ray.is_initialized():
        try:
            ray.init(
                address=compute.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"py_modules": [str(Path(stages.__file__).parent)]},
            )
        except (ConnectionError, RuntimeError) as error:
            raise ValueError(
                f"no Ray cluster answers at {compute.address} (compute.address in params.yaml): {error}; `ray start` starts one"
            ) from error
    return ray
