"""What earlier sessions of a run left for this one: the time they spent and their notes. What of it is damaged is set
aside, told, and set right from what else lies on the disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nanogpt import durable
from nanogpt import durable
from nanogpt.faults import CORRUPT_FILE, CorruptFileError

if TYPE_CHECKING:
    from flows.runner.run import Run


def set_aside_damaged(run: Run, *names: str) -> None:
    """Of these notes in the run's state/ folder, those that cannot be believed: they are begun anew."""
    for name in names:
        if problem := durable.read_note(run.paths.state / name)[1]:
            _set_aside(run, run.paths.state / name, problem, "begun anew")


def take_over_clock(run: Run, session: dict) -> bool:
    """Whether this session goes on with the budget of `session`, the latest.

    A clock that is damaged, or gone, while that was under way is set by what the steps took.
    """
    under_way = session.get("state", "finished") != "finished"
    try:
        going_on = run.clock.go_on()
        if going_on or not under_way or os.path.lexists(run.clock.path):
            return going_on
        problem = "it is missing"
    except CorruptFileError as error:
        problem = str(error)
    run.clock.take_over(_seconds_since(run, session.get("started", "")) if under_way else 0.0)
    _set_aside(run, run.clock.path, problem, f"set by the steps: {run.clock.spent:.0f} s are spent")
    return under_way


def _seconds_since(run: Run, moment: str) -> float:
    """What the steps took that have ended since, and the trainings that go on."""
    seconds = 0.0
    for step in run.steps():
        marker = run.ledger.marker(step.name) or {}
        if marker.get("finished_at", marker.get("failed_at", ""))[:19] >= moment[:19]:
            seconds += marker.get("seconds", 0.0)
        elif marker and step.name.startswith("training."):
            seconds += _trained_seconds(run.paths.checkpoints / step.name.removeprefix("training."))
    return seconds


def _trained_seconds(folder: Path) -> float:
    heartbeat, _ = durable.read_note(folder / "heartbeat")
    seconds = (heartbeat or {}).get("seconds")
    return seconds if isinstance(seconds, int | float) else 0.0


def _set_aside(run: Run, path: Path, problem: str, remedy: str) -> None:
    if os.path.lexists(path):
        durable.set_aside(path)
    run.remedy(step="session", symptom=CORRUPT_FILE, evidence=f"{run.relative(path)}: {problem}", remedy=remedy,
               outcome="", cost_seconds=0.0, steps_lost=0)  # fmt: skip
