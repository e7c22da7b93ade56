"""Many pieces of work in several processes of this machine; what comes out has the order of the pieces."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

from stages.running.compute import used
from stages.running.garbage import imported, importing, start
from stages.running.leash import follow_parent

Piece = TypeVar("Piece")
Result = TypeVar("Result")

AHEAD = 3
"""Pieces handed out beforehand to each process, so that none waits; no more, so that memory does not grow with the pieces."""

_work: Callable[[Any], Any] | None = None
"""In a process of several: what it does with a piece, made when the first one comes."""


def mapped(
    make: Callable[..., Callable[[Piece], Result]],
    given: tuple[Any, ...],
    pieces: Iterable[Piece],
    processes: int | None = None,
) -> Iterator[Result]:
    """`work(piece)` of every piece, in their order, where each process makes its own `work = make(*given)` once.

    `processes` of this machine, or if that is None, wherever params.yaml says (`compute`). One process is this one.
    Several are started anew, since a copy of this one could hold locks of libraries that nobody gives back; so `make`, `given`,
    pieces and results must pickle. They end with this process, however it ends.

    Raises:
        Whatever `make` or `work` raised; then the other processes end too.
        concurrent.futures.process.BrokenProcessPool: a process was killed, by the system for its memory perhaps.
    """
    if processes is None and used().engine == "ray":
        from stages.running.cluster import mapped_on_cluster  # here, for most have no cluster

        yield from mapped_on_cluster(make, given, pieces, used())
        return
    processes = used().processes if processes is None else processes
    if processes == 1:
        importing()
        work = make(*given)
        imported()
        yield from map(work, pieces)
        return
    waiting: deque[Future[Result]] = deque()
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin)
    try:
        for piece in pieces:
            waiting.append(pool.submit(_done, make, given, piece))
            if len(waiting) == AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    start()
    starter = multiprocessing.parent_process()
    if starter is None or os.getppid() != starter.pid:
        os._exit(1)  # it was gone before this one was ready, and whoever took this one in is not to be followed
    follow_parent()


def _done(make: Callable[..., Callable[[Piece], Result]], given: tuple[Any, ...], piece: Piece) -> Result:
    global _work
    if _work is None:
        _work = make(*given)
        imported()
    return _work(piece)
