"""What earlier sessions of a run left for this one: the time that they spent, and their notes. What of it is damaged is
set aside, reported, and set right from what else lies on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.context.budget_clock import BudgetClock
from flows.context.journal import Journal
from flows.context.paths import Paths
from flows.ledger.ledger import Ledger
from flows.supervision.model_files import ModelFiles
from nanogpt import durable
from nanogpt.faults import CORRUPT_FILE, CorruptFileError


@dataclass(frozen=True)
class Past:
    """What the steps of earlier sessions took."""

    paths: Paths
    ledger: Ledger
    step_names: Sequence[str]

    def seconds_since(self, moment: str) -> float:
        """Of the steps that have ended since, and of the trainings that are under way."""
        seconds = 0.0
        for name in self.step_names:
            marker = self.ledger.marker(name)
            if marker is None:
                continue
            if marker.ended_at[:19] >= moment[:19]:
                seconds += marker.seconds
            elif name.startswith("training."):
                seconds += ModelFiles(self.paths.model(name.partition(".")[2])).trained_seconds()
        return seconds


def set_aside_damaged(files: Iterable[Path], journal: Journal, paths: Paths, remedy: str = "begun anew") -> None:
    """Those of these notes that cannot be believed; `remedy`: what takes their place."""
    for file in files:
        if problem := durable.read_note(file)[1]:
            _set_aside(file, problem, remedy, journal, paths)


def take_over_clock(clock: BudgetClock, state: str | None, started: str | None, past: Past, journal: Journal) -> bool:
    """Whether this session continues with the budget of the latest, which began in `started` and ended in `state`.

    A clock that is damaged, or gone, while that was under way is set by what the steps took.
    """
    under_way = state not in (None, "finished")
    try:
        resumed = clock.resume()
        if resumed or not under_way or os.path.lexists(clock.path):
            return resumed
        problem = "it is missing"
    except CorruptFileError as error:
        problem = str(error)
    clock.take_over(past.seconds_since(started or "") if under_way else 0.0)
    _set_aside(clock.path, problem, f"set by the steps: {clock.spent:.0f} s are spent", journal, past.paths)
    return under_way


def _set_aside(path: Path, problem: str, remedy: str, journal: Journal, paths: Paths) -> None:
    if os.path.lexists(path):
        durable.set_aside(path)
    journal.record("session", CORRUPT_FILE, f"{paths.relative(path)}: {problem}", remedy)
