"""Which trainings of a run took much longer than their plan: each is a reason to measure and to plan again, once.

The note lies in state/<run>/slow.json. What stands in it is among the settings of the measurement, so that a start that
is killed in between measures again as well.
"""

from __future__ import annotations

from pathlib import Path

from flows.ledger.facts import PlannedModel, Trained
from flows.ledger.steps import Json
from nanogpt import durable

FILE = "slow.json"
SLOWER = 1.3  # times the planned seconds of a step


class SlowTrainings:
    def __init__(self, state: Path):
        self._file = state / FILE

    def note(self, planned: PlannedModel, trained: Trained) -> bool:
        """Note a training that took more than SLOWER times what was planned; whether that is news."""
        steps = planned.tokens / (trained.tokens / trained.step) if trained.step else 0
        if not steps or trained.seconds / trained.step <= SLOWER * planned.seconds / steps:
            return False
        known = self._read()
        if known.get(planned.name) == trained.sha256:
            return False
        durable.write_note(self._file, {**known, planned.name: trained.sha256})
        return True

    def settings(self) -> Json:
        known = self._read()
        return {"slow": known} if known else {}

    def _read(self) -> Json:
        note, _ = durable.read_note(self._file)
        return note or {}
