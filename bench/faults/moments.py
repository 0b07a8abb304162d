"""Moments of a run at which something can happen to it: anywhere in a step, or in one of the short windows between two
writes, as they are seen from outside."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bench.faults.kind import NotSurvived
from bench.faults.losses import trains_since
from bench.faults.process import Process
from bench.faults.scene import Scene
from bench.faults.template import Templates
from nanogpt import durable

LOOK_SECONDS = 0.001  # a marker's temporary file lives for the milliseconds of an fsync
LOOKS_BETWEEN = 20  # such looks between two at all else
SIGHT_SECONDS = 20.0  # after which a window that is not seen is given up for any moment
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


ANYWHERE, WHILE_IT_TRAINS = "anywhere in the step", "while it trains"
SHARE = {ANYWHERE: 1.0, WHILE_IT_TRAINS: 0.2}  # of the step that is waited for at most; the training must come further
# What is looked at, until it is there anew.
Sight = Callable[[Scene, Step], object]
WINDOWS: dict[str, Sight] = {
    "a marker is being written": lambda scene, step: _temporary(scene.markers, f"{step.name}.json"),
    "a marker has just said finished": lambda scene, step: marker_of(scene, step.name)[0] == "finished",
}
WINDOWS_OF_TRAINING: dict[str, Sight] = {
    "a checkpoint is being written": lambda scene, step: [path.name for path in scene.checkpoints.glob(".*.tmp")],
    "a checkpoint has just been renamed": lambda scene, step: scene.checkpoint_steps(),
    "best/ is being written": lambda scene, step: (scene.model / ".best.tmp").exists(),
    "the metrics are being rewritten": lambda scene, step: _temporary(scene.model, "metrics.jsonl"),
    "final/ is being written": lambda scene, step: (scene.model / ".final.tmp").exists(),
    "an outcome is there, and the marker says started": lambda scene, step: (scene.model / "outcome.json").exists(),
}


def windows_of(step: Step) -> list[str]:
    """The names of the short windows that a step has."""
    return [*WINDOWS, *(WINDOWS_OF_TRAINING if step.phase == "training" else [])]


def moment_comes(
    scene: Scene, going: Process, step: Step, moment: str, dice: random.Random, meanwhile: Callable[[], None],
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
        return _stays(scene, going, dice.uniform(0, KEPT_SECONDS), meanwhile)
    entered = time.time()
    scene.wait_until(lambda: begun() or not going.is_running, f"the start of {step.name}")
    if moment == WHILE_IT_TRAINS:
        scene.wait_until(lambda: begun() and _trains_or_has(scene, going, step, entered), "the training to go on")
    if moment in (ANYWHERE, WHILE_IT_TRAINS):
        return _stays(scene, going, dice.uniform(0, step.seconds * SHARE[moment]), meanwhile)
    sight = {**WINDOWS, **WINDOWS_OF_TRAINING}[moment]
    before, until = sight(scene, step), time.monotonic() + SIGHT_SECONDS
    for look in count():
        if (now := sight(scene, step)) and now != before:
            return True
        before = before and now  # what was there and went away may come anew
        if look % LOOKS_BETWEEN == 0:
            meanwhile()
            if not going.is_running:
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
    """The finished steps now. Raises NotSurvived when one of those `before` was begun again."""
    now = finished_steps(scene)
    again = [name for name, marker in before.items() if now.get(name) != marker]
    if again:
        raise NotSurvived(f"done twice: {', '.join(again)}")
    return now


def _trains_or_has(scene: Scene, going: Process, step: Step, since: float) -> bool:
    return trains_since(scene, since) or marker_of(scene, step.name)[0] == "finished" or not going.is_running


def _stays(scene: Scene, going: Process, seconds: float, meanwhile: Callable[[], None]) -> bool:
    """Wait; whether the run goes on then."""
    until = time.monotonic() + seconds

    def over() -> bool:
        meanwhile()
        return time.monotonic() > until or not going.is_running

    scene.wait_until(over, "a moment")
    return going.is_running


def _temporary(folder: Path, name: str) -> list[str]:
    return [path.name for path in folder.glob(f".{name}.*.tmp")]
