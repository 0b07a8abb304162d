"""A session that never ended: killed, rebooted or without power. When it was last alive, and what is done again."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flows.ledger.markers import STARTED
from nanogpt import durable

if TYPE_CHECKING:
    from flows.runner.run import Run

SYMPTOM = "interrupted"


def remedy_for(run: Run, session: dict) -> dict | None:
    """The row of remedies for an earlier `session` that did not end by itself; None for one that did."""
    if session.get("state") != "running":
        return None
    open_steps = [step.name for step in run.steps() if (run.ledger.marker(step.name) or {}).get("state") == STARTED]
    steps_lost, seconds = 0, 0.0
    for name in open_steps:
        if name.startswith("training."):
            steps, of_training = lost_in(run.paths.checkpoints / name.removeprefix("training."))
            steps_lost, seconds = steps_lost + steps, seconds + of_training
    return {
        "step": open_steps[-1] if open_steps else "session", "symptom": SYMPTOM,
        "evidence": f"a session never ended (kill, reboot or power cut); last alive at {_last_alive(run)}",
        "remedy": "the same command goes on", "cost_seconds": seconds, "steps_lost": steps_lost,
        "outcome": f"{', '.join(open_steps)} again" if open_steps else "nothing was under way",
    }  # fmt: skip


def lost_in(folder: Path) -> tuple[int, float]:
    """(steps, seconds) that an interrupted training in `folder` has to do again, from what lies there."""
    try:
        heartbeat = durable.read_json(folder / "heartbeat")
        step, seconds = int(heartbeat["step"]), float(heartbeat.get("seconds") or 0.0)
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0.0
    lost = max(0, step - saved_step(folder))
    return lost, round(seconds * lost / step, 1) if step else 0.0


def saved_step(folder: Path) -> int:
    """Of the newest checkpoint in a model's folder; 0 without any."""
    checkpoints = (folder / "checkpoints").glob("step-*")
    return max((int(path.name[5:]) for path in checkpoints if path.name[5:].isdigit()), default=0)


def _last_alive(run: Run) -> str:
    """When the session wrote last: its log, a marker's pulse or a trainer's heartbeat."""
    log, markers = run.paths.logs / "automation_log.txt", run.paths.markers.glob("*.json")
    files = [log, *markers, *run.paths.checkpoints.glob("*/heartbeat")]
    moments = [file.stat().st_mtime for file in files if file.is_file()]
    return datetime.fromtimestamp(max(moments)).isoformat(sep=" ", timespec="seconds") if moments else "a time unknown"
