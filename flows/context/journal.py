"""What a run says: lines for people and for the log, and a row of the report for each remedy."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.context.action_log import ActionLog
from flows.context.timeline import Timeline
from flows.display.plain import PlainDisplay
from flows.display.protocol import Display, Level
from flows.ledger.facts import Remedy
from nanogpt import durable
from nanogpt.records import from_json, to_json

MOST_REMEDIES = 1000  # kept of a run that never comes to rest


class Journal:
    """The action log, the display and the remedies of one run. `display` is replaced once a session knows its own.

    The remedies of all sessions are kept in `file`: those that earlier sessions recorded are `past_remedies`.
    """

    def __init__(self, log: ActionLog, file: Path, display: Display | None = None):
        self.display: Display = display or PlainDisplay()
        self.file = file
        self.remedies: list[Remedy] = []  # of this session
        self.past_remedies = _remedies_in(file)
        self.timeline = Timeline(file.with_name("timeline.jsonl"))
        self._log = log
        self._said_once: set[str] = set()
        self._lock = threading.Lock()

    def log(self, message: str, level: Level = "info") -> None:
        """A line of the action log alone."""
        self._log.write(message, level)

    def message(self, message: str, level: Level = "info") -> None:
        """A line for the person: terminal, action log and the task's page."""
        self._log.write(message, level)
        self.display.note(message, level)

    def message_once(self, message: str, level: Level = "info") -> None:
        """message(), unless it was given in this session before."""
        if message not in self._said_once:
            self._said_once.add(message)
            self.message(message, level)

    def record(
        self, step: str, symptom: str, evidence: str, remedy: str, outcome: str = "", cost_seconds: float = 0.0,
        steps_lost: int = 0,
    ) -> Remedy:  # fmt: skip
        """Record a remedy, and show it as a warning."""
        now = datetime.now().isoformat(timespec="seconds")
        row = Remedy(now, step, symptom, evidence, remedy, outcome, round(cost_seconds, 1), steps_lost)
        self.remedies.append(row)
        self._save()
        self.message(f"{symptom}: {evidence} -> {remedy}", "warning")
        return row

    def amend(self, row: Remedy, *, outcome: str | None = None, more_seconds: float = 0.0) -> Remedy:
        """Add to a recorded remedy what was known only later."""
        cost = round(row.cost_seconds + more_seconds, 1)
        amended = replace(row, cost_seconds=cost, outcome=row.outcome if outcome is None else outcome)
        self.remedies = [amended if other is row else other for other in self.remedies]
        self._save()
        return amended

    def forget_past(self) -> None:
        """Begin anew: what earlier sessions recorded is of another run."""
        self.past_remedies = []

    def _save(self) -> None:
        with self._lock, suppress(OSError):  # on a full disk the markers still keep those of their steps
            rows = [*self.past_remedies, *self.remedies][-MOST_REMEDIES:]
            durable.write_note(self.file, {"remedies": [to_json(row) for row in rows]})


def _remedies_in(file: Path) -> list[Remedy]:
    rows: Any = (durable.read_note(file)[0] or {}).get("remedies", [])
    found = []
    for row in rows if isinstance(rows, list) else []:
        with suppress(ValueError):
            found.append(from_json(Remedy, row))
    return found
