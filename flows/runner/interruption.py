"""A session that never ended: killed, rebooted or without power. When it was last alive, and what is done again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from flows.context.journal import Journal
from flows.context.paths import Paths
from flows.ledger.ledger import Ledger
from flows.ledger.markers import STARTED
from flows.supervision.model_files import ModelFiles

SYMPTOM = "interrupted"


def record(ledger: Ledger, paths: Paths, journal: Journal, step_names: Sequence[str]) -> None:
    """A row of remedies for the session before this one, which did not end by itself."""
    open_steps = [name for name in step_names if (marker := ledger.marker(name)) and marker.state == STARTED]
    trainings = [name.partition(".")[2] for name in open_steps if name.startswith("training.")]
    last_alive = _last_alive(paths)
    journal.timeline.note("killed", at=last_alive)
    lost = [ModelFiles(paths.model(name)).lost() for name in trainings]
    journal.record(
        open_steps[-1] if open_steps else "session",
        SYMPTOM,
        f"a session never ended (kill, reboot or power cut); last alive at {_in_words(last_alive)}",
        "the same command continues",
        f"{', '.join(open_steps)} again" if open_steps else "nothing was under way",
        cost_seconds=sum(seconds for _, seconds in lost),
        steps_lost=sum(steps for steps, _ in lost),
    )


def _last_alive(paths: Paths) -> float | None:
    """When the session wrote last, in seconds since the epoch: its log, a marker's pulse or a trainer's heartbeat."""
    log = paths.logs / "automation_log.txt"
    files = [log, *paths.markers.glob("*.json"), *paths.checkpoints.glob("*/heartbeat")]
    moments = [file.stat().st_mtime for file in files if file.is_file()]
    return max(moments, default=None)


def _in_words(moment: float | None) -> str:
    return "an unknown time" if moment is None else datetime.fromtimestamp(moment).isoformat(" ", timespec="seconds")
