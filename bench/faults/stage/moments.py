"""Moments of a run at which something can happen to it: anywhere in a step, or in one of the short windows between two
writes, as they are seen from outside. A moment is waited for; what is left of the run then shows which one was met."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path

from bench.faults.stage.finding import NotSurvived
from bench.faults.stage.losses import heartbeat_of, trains_since
from bench.faults.stage.process import Process
from bench.faults.stage.scene import Scene
from bench.faults.stage.templates import Templates
from nanogpt import durable

LOOK_SECONDS = 0.001  # a marker's temporary file lives for the milliseconds of an fsync
LOOKS_BETWEEN = 20  # such looks between two at all else
SIGHT_SECONDS = 20.0  # after which a window that is not seen is given up for any moment
JUST_SECONDS = 0.2  # so long ago is "just"
KEPT_SECONDS = 3.0  # a start that keeps the step is looked at for so long: all of it, or the start of a trainer


@dataclass(frozen=True)
class Step:
    """A step of the ledger as the uninterrupted run did it."""

    name: str
    seconds: float

    @property
    def phase(self) -> str:
        return self.name.split(".")[0]


def steps_of(templates: Templates) -> list[Step]:
    """The steps of the uninterrupted run, in its order."""
    markers = [durable.read_json(path) for path in templates.workspace("whole").glob("state/*/markers/*.json")]
    return [Step(marker["step"], marker["seconds"]) for marker in sorted(markers, key=lambda it: it["started_at"])]


@dataclass(frozen=True)
class Strike:
    """A kill as it struck."""

    time: float  # seconds since the epoch
    started: float  # the same: when the start that it struck began
    trainer_lived: bool
    cut_off: frozenset[Path]  # the temporary files and folders that those whom it killed were writing


ANYWHERE, WHILE_IT_TRAINS = "anywhere in the step", "while it trains"
WRITING, BETWEEN = "another file is being written", "no step is under way (starting, or between two)"
FINISHED, RENAMED = "a marker has just said finished", "a checkpoint has just been renamed"
OUTCOME = "an outcome is there, and the marker says started"
PARTS_OF_TRAINING = ("training", "evaluating", "writing a sample", "saving")  # the activity of a heartbeat
SHARE = {ANYWHERE: 1.0, WHILE_IT_TRAINS: 0.2}  # of the step that is waited for at most; the training must come further
# What is looked at, until it is there anew: of the writes, their temporary files or folders.
Sight = Callable[[Scene, Step], object]
Write = Callable[[Scene, Step], list[Path]]
WRITES: dict[str, Write] = {
    "a marker is being written": lambda scene, step: _temporary(scene.markers, f"{step.name}.json"),
}
WRITES_OF_TRAINING: dict[str, Write] = {
    "a checkpoint is being written": lambda scene, step: list(scene.checkpoints.glob(".*.tmp")),
    "best/ is being written": lambda scene, step: list(scene.model.glob(".best.tmp")),
    "the metrics are being rewritten": lambda scene, step: _temporary(scene.model, "metrics.jsonl"),
    "final/ is being written": lambda scene, step: list(scene.model.glob(".final.tmp")),
}
WINDOWS: dict[str, Sight] = {
    **WRITES,
    FINISHED: lambda scene, step: marker_of(scene, step.name)[0] == "finished",
}
WINDOWS_OF_TRAINING: dict[str, Sight] = {
    **WRITES_OF_TRAINING,
    RENAMED: lambda scene, step: scene.checkpoint_steps(),
    OUTCOME: lambda scene, step: outcome_without_marker(scene, step.name),
}
AT_THE_END = ["final/ is being written", OUTCOME, "a marker is being written", FINISHED]  # of a step, in its order
MOST_TELLING = [*WRITES, *WRITES_OF_TRAINING, WRITING, OUTCOME, FINISHED, RENAMED, WHILE_IT_TRAINS, ANYWHERE]


def windows_of(step: Step) -> list[str]:
    """The names of the short windows that a step has."""
    return [*WINDOWS, *(WINDOWS_OF_TRAINING if step.phase == "training" else [])]


def moments_met(scene: Scene, steps: list[Step], strike: Strike) -> list[tuple[str, str]]:
    """(step, moment) of all that was so when the kill struck, the most telling first; to be asked before the restart.

    A write was met when the kill cut it off: its temporary file is there, and its writer was killed.
    """
    met = [(step.name, moment) for step in steps for moment in _met_in(scene, step, strike)]
    known = {path for step in steps for sight in _writes_of(step).values() for path in sight(scene, step)}
    if strike.cut_off - known:
        met.append((next(iter(started_steps(scene)), ""), WRITING))
    return sorted(met, key=lambda one: MOST_TELLING.index(one[1])) or [("", BETWEEN)]


def _met_in(scene: Scene, step: Step, strike: Strike) -> list[str]:
    def just(path: Path) -> bool:  # a rename changes the time of the inode
        return path.exists() and 0 <= strike.time - path.stat().st_ctime < JUST_SECONDS

    met = [moment for moment, sight in _writes_of(step).items() if strike.cut_off & set(sight(scene, step))]
    state = marker_of(scene, step.name)[0]
    if state == "finished" and just(scene.markers / f"{step.name}.json"):
        met.append(FINISHED)
    if state == "started":
        met.append(ANYWHERE)
    if step.phase == "training" and state == "started":
        if outcome_without_marker(scene, step.name):
            met.append(OUTCOME)
        elif strike.trainer_lived and _was_training(scene, strike.started):
            met.append(WHILE_IT_TRAINS)
        if any(map(just, scene.checkpoints.glob("step-*"))):
            met.append(RENAMED)
    return met


def _was_training(scene: Scene, since: float) -> bool:
    heartbeat = heartbeat_of(scene)
    return heartbeat.get("activity") in PARTS_OF_TRAINING and heartbeat["time"] > since


def _writes_of(step: Step) -> dict[str, Write]:
    return {**WRITES, **WRITES_OF_TRAINING} if step.phase == "training" else WRITES


def outcome_without_marker(scene: Scene, step: str) -> bool:
    """Whether the trainer has left an outcome that says finished, since the marker of its step says started."""
    outcome = scene.model / "outcome.json"
    if not outcome.exists():
        return False
    state, started_at, _ = marker_of(scene, step)
    try:
        finished = durable.read_json(outcome)["status"] == "finished"
        return finished and state == "started" and outcome.stat().st_mtime >= _seconds(started_at)
    except (OSError, ValueError):
        return False


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def moment_comes(
    scene: Scene, process: Process, step: Step, moment: str, dice: random.Random, meanwhile: Callable[[], None],
    at_start: tuple[str, str, int],
) -> bool:  # fmt: skip
    """Wait for `moment` within `step`; False when the run ends before.

    `at_start`: marker_of() the step before this start. A step that this start keeps, or that ends before its moment,
    has none: then it is any moment of the start. `meanwhile` is called often.
    """

    def begun() -> bool:
        meanwhile()
        return marker_of(scene, step.name) != at_start

    if at_start[0] == "finished":
        return _stays(scene, process, dice.uniform(0, KEPT_SECONDS), meanwhile)
    entered = time.time()
    scene.wait_until(lambda: begun() or not process.is_running, f"the start of {step.name}")
    if moment == WHILE_IT_TRAINS:
        scene.wait_until(lambda: begun() and _trains_or_has(scene, process, step, entered), "the training to continue")
    if moment in (ANYWHERE, WHILE_IT_TRAINS):
        return _stays(scene, process, dice.uniform(0, step.seconds * SHARE[moment]), meanwhile)
    sight = {**WINDOWS, **WINDOWS_OF_TRAINING}[moment]
    before, until = sight(scene, step), time.monotonic() + SIGHT_SECONDS
    for look in count():
        if (now := sight(scene, step)) and now != before:
            return True
        before = before and now  # what was there and went away may come anew
        if look % LOOKS_BETWEEN == 0:
            meanwhile()
            if not process.is_running:
                return False
            if time.monotonic() > until or marker_of(scene, step.name)[0] == "finished":
                return True
        time.sleep(LOOK_SECONDS)
    return False


def marker_of(scene: Scene, step: str) -> tuple[str, str, int]:
    """State, start and number of attempts as the step's marker has them now."""
    try:
        marker = durable.read_json(scene.markers / f"{step}.json")
        return marker["state"], marker["started_at"], marker["attempts"]
    except (OSError, ValueError):
        return "never run", "", 0


def started_steps(scene: Scene) -> list[str]:
    """The steps that are under way."""
    return [path.stem for path in scene.markers.glob("*.json") if marker_of(scene, path.stem)[0] == "started"]


def finished_steps(scene: Scene) -> dict[str, str]:
    """The markers of the finished steps, as they are written."""
    markers = {path.stem: path.read_text(encoding="utf-8") for path in scene.markers.glob("*.json")}
    return {name: text for name, text in markers.items() if json.loads(text)["state"] == "finished"}


def still_finished(scene: Scene, before: dict[str, str]) -> dict[str, str]:
    """The finished steps now. Raises NotSurvived when one of those `before` was begun again; a report that was there
    when the run was killed is made again, to tell of the kill."""
    now = finished_steps(scene)
    again = [name for name, marker in before.items() if now.get(name) != marker and not _tells_of_a_kill(scene, name)]
    if again:
        raise NotSurvived(f"done twice: {', '.join(again)}")
    return now


def _tells_of_a_kill(scene: Scene, step: str) -> bool:
    try:
        reason = durable.read_json(scene.markers / f"{step}.json")["reason"]
    except (OSError, ValueError, KeyError):
        return False
    return step == "documentation.report" and bool(re.search(r"remedies\.\d+ added \(.* interrupted\)", reason))


def _trains_or_has(scene: Scene, process: Process, step: Step, since: float) -> bool:
    return trains_since(scene, since) or marker_of(scene, step.name)[0] == "finished" or not process.is_running


def _stays(scene: Scene, process: Process, seconds: float, meanwhile: Callable[[], None]) -> bool:
    """Wait; whether the run continues then."""
    until = time.monotonic() + seconds

    def over() -> bool:
        meanwhile()
        return time.monotonic() > until or not process.is_running

    scene.wait_until(over, "a moment")
    return process.is_running


def _temporary(folder: Path, name: str) -> list[Path]:
    return list(folder.glob(f".{name}.*.tmp"))
