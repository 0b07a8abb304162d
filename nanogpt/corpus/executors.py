"""Where pieces are worked on: in this process, in several of this machine, or on a Dask cluster.

What is worked on is a module-level function of one plain value that writes its files whole or not at all, the same
bytes each time, and is quick where they are there: whoever loses a worker calls it again, perhaps while the lost one
still writes. So a killed worker costs the pieces under way.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from nanogpt.faults import OUT_OF_MEMORY
from nanogpt.process.endings import KILLED
from nanogpt.process.memory_pressure import MemoryPressure
from nanogpt.process.worker import WorkerDied, live_with_parent, sendable

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_LOSSES = 3  # of workers, without a piece done between them; as many as Dask allows one piece
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Workers:
    """`count` processes of this machine; or, where `on` is given, a Dask cluster: "dask" for one of `count` processes
    here, or the address of the scheduler of one that is there (HOST:PORT), which has workers of its own."""

    count: int = 1
    on: str | None = None


HERE = Workers()  # in this process
Progress = Callable[[str, int, int], None]  # what is done, how many of how many


def no_report(what: str, done: int, of: int) -> None:
    """For callers who want the result alone."""


def run(function: Callable[[Item], Result], items: Sequence[Item], workers: Workers = Workers()) -> Iterator[Result]:
    """`function` of each item, in the order of `items`, each as soon as it and all before it are there.

    Raises what `function` raises; WorkerDied where workers end again and again; UserError where no cluster answers.
    """
    if workers.on:
        from nanogpt.corpus import cluster  # Dask takes half a second, and few have it

        return cluster.run(function, items, workers.on, workers.count)
    if workers.count > 1 and len(items) > 1:
        return _in_processes(function, items, min(workers.count, len(items)))
    return map(function, items)


def check(workers: Workers, folder: Path) -> None:
    """Raise UserError unless all workers of a cluster have what makes the same bytes, and see `folder`."""
    if workers.on:
        from nanogpt.corpus import cluster

        cluster.check(workers.on, workers.count, folder)


def _in_processes(function: Callable[[Item], Result], items: Sequence[Item], count: int) -> Iterator[Result]:
    """The second time that a worker is lost with no piece done between, one process goes on alone: with the memory of
    all."""
    call, done, losses = partial(_call, function), 0, 0
    while done < len(items):
        pressure = MemoryPressure()
        with ProcessPoolExecutor(
            count if losses < MOST_LOSSES - 1 else 1, multiprocessing.get_context("spawn"), initializer=_begin
        ) as pool:
            try:
                for result in pool.map(call, items[done:]):
                    done, losses = done + 1, 0
                    pressure.look()
                    yield result
            except BrokenProcessPool:
                losses += 1
                if losses == MOST_LOSSES:
                    raise _lost(items[done], pressure) from None


def _lost(item: object, pressure: MemoryPressure) -> WorkerDied:
    evidence = pressure.evidence()
    symptom = OUT_OF_MEMORY if evidence else KILLED
    return WorkerDied(
        f"{item}: its process ended {MOST_LOSSES} times; {evidence or 'by a signal, or by itself'}", symptom
    )


def _begin() -> None:
    """In a worker, before any library is there that counts cores: one thread, as there is a process for each core."""
    os.environ.update(ONE_THREAD)
    live_with_parent()


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    try:
        return function(item)
    except Exception as error:
        if (found := sendable(error)) is error:
            raise
        raise found from None
