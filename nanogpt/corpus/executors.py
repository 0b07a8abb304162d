"""Where the pieces of a corpus are worked on: in this process, in several of this machine, or on a Dask cluster.

What is run is a function of its piece that writes its files whole or not at all, the same bytes whoever does it, and is
quick where they are there. It may be called again for a piece whose worker was lost, perhaps while that one still
writes: a killed worker costs the pieces that it was at.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from nanogpt.faults import OUT_OF_MEMORY
from nanogpt.process.endings import KILLED
from nanogpt.process.memory_pressure import MemoryPressure
from nanogpt.process.worker import SECONDS_BETWEEN_LOOKS, WorkerDied, live_with_parent, sendable

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_LOSSES = 3  # of processes with nothing done between, as many as Dask allows a piece; the last one works alone
AT_ONCE = 4  # pieces handed out for each process: a corpus may have a hundred thousand
FOR_A_CLUSTER = 256  # at least: by what waits, one that grows sees how far
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Workers:
    """`count` processes of this machine; or, where `on` is given, a Dask cluster: "dask" for one of `count` processes
    here, or the address of the scheduler of one that is there (HOST:PORT), which has workers of its own."""

    count: int = 1
    on: str | None = None


HERE = Workers()  # in this process
Report = Callable[[str, int, int], None]  # what is done, how many of how many


def no_report(what: str, done: int, of: int) -> None:
    """For callers who want the result alone."""


def run(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: Workers = HERE,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """`function` of each of `items`, in their order, each as soon as it and all before it are there.

    `function`, items and results are pickled where others work. `on_wait` is called every moment. Raises what
    `function` raises, WorkerDied where processes are lost and nothing gets done, UserError where no cluster answers.
    """
    if not workers.on and min(workers.count, len(items)) <= 1:
        for item in items:
            on_wait()
            yield function(item)
        return
    early: dict[int, Result] = {}
    following = 0
    for place, result in _by_others(partial(_call, function), items, workers, on_wait):
        early[place] = result
        while following in early:
            yield early.pop(following)
            following += 1


def check(workers: Workers, folder: Path) -> None:
    """Raise UserError unless all workers of a cluster have what makes the same bytes, and see `folder`."""
    if workers.on:
        from nanogpt.corpus import cluster  # Dask takes 0.4 s, and few have it

        cluster.check(workers.on, folder)


def _by_others(
    function: Callable[[Item], Result], items: Sequence[Item], workers: Workers, on_wait: Callable[[], None]
) -> Iterator[tuple[int, Result]]:
    """(place, result) as they end. A pool that lost a process is of no more use: the next one does what is left."""
    left, losses = dict(enumerate(items)), 0
    while left:
        pressure = MemoryPressure()

        def look(pressure: MemoryPressure = pressure) -> None:
            pressure.look()
            on_wait()

        try:
            with _opened(workers, len(left), alone=losses == MOST_LOSSES - 1) as (pool, at_once):
                for place, result in _as_they_end(pool, at_once, function, dict(left), look):
                    del left[place]
                    losses = 0
                    yield place, result
        except BrokenProcessPool:
            losses += 1
            if losses == MOST_LOSSES:
                raise _lost(pressure) from None


@contextmanager
def _opened(workers: Workers, items: int, alone: bool) -> Iterator[tuple[Executor, int]]:
    """A pool, and how many pieces it is given at once."""
    if workers.on:
        from nanogpt.corpus import cluster

        with cluster.pool(workers.on, workers.count) as (others, threads):
            yield others, max(AT_ONCE * threads, FOR_A_CLUSTER)
        return
    count = 1 if alone else min(workers.count, items)
    # A fork of a process with threads may hang.
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield pool, AT_ONCE * count
    except BaseException:  # Ctrl-C, a fault of one piece, or whoever asked wants no more
        for process in list((pool._processes or {}).values()):
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _as_they_end(
    pool: Executor,
    at_once: int,
    function: Callable[[Item], Result],
    items: dict[int, Item],
    on_wait: Callable[[], None],
) -> Iterator[tuple[int, Result]]:
    running: dict[Future[Result], int] = {}
    while items or running:
        for place in list(itertools.islice(items, at_once - len(running))):
            running[pool.submit(function, items.pop(place))] = place
        on_wait()
        ended, _ = wait(running, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
        for future in ended:
            yield running.pop(future), future.result()


def _lost(pressure: MemoryPressure) -> WorkerDied:
    memory = pressure.evidence()
    why = memory or "by a signal, or by itself"
    message = f"{MOST_LOSSES} times a process that prepares text ended before it had done a piece; {why}"
    return WorkerDied(message, OUT_OF_MEMORY if memory else KILLED)


def _begin() -> None:
    """In a worker, before any library is there that counts cores: one thread, as there is a process for each core."""
    os.environ.update(ONE_THREAD)
    live_with_parent()


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    try:
        return function(item)
    except Exception as error:  # one that cannot be sent would look like the death of this process
        raise sendable(error) from None
