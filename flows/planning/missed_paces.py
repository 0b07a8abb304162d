"""Which trainings of a run took much longer than their plan, or much shorter: each is a reason to measure and to plan
again, once.

The note lies in state/<run>/slow.json. What stands in it is among the settings of the measurement, so that a start that
is killed in between measures again as well.
"""

from __future__ import annotations

from pathlib import Path

from flows.ledger.facts import PlannedModel, Trained
from flows.ledger.steps import Json
from nanogpt import durable

FILE = "slow.json"
SLOWER = 1.3  # times the planned seconds
# Of the planned seconds: measured while another program was at work, micro was planned with 354 steps for 71 s.
FASTER = 0.6
GIVEN_UP = "given up"  # in the place of the sha256 of a training that finished


def slowdown(planned: PlannedModel, trained: Trained) -> float:
    """How many times the planned seconds for a token a training took, with all that is done between the steps; 1 where
    nothing was learned from."""
    if not trained.tokens or not planned.seconds:
        return 1.0
    return (trained.seconds / trained.tokens) / (planned.seconds / planned.tokens)  # a step has as many tokens


class MissedPaces:
    def __init__(self, state: Path):
        self._file = state / FILE

    def note(self, planned: PlannedModel, trained: Trained) -> bool:
        """Note a training that took more than SLOWER times what was planned, or less than FASTER; whether that is
        news."""
        known = self._read()
        if FASTER <= slowdown(planned, trained) <= SLOWER or known.get(planned.name) == trained.sha256:
            return False
        durable.write_note(self._file, {**known, planned.name: trained.sha256})
        return True

    def note_given_up(self, name: str) -> None:
        """Note a training that was given up because it was too slow."""
        durable.write_note(self._file, {**self._read(), name: GIVEN_UP})

    def was_given_up(self, name: str) -> bool:
        """Once: the next time it trains on until its time is over."""
        return self._read().get(name) == GIVEN_UP

    def settings(self) -> Json:
        known = self._read()
        return {"slow": known} if known else {}

    def _read(self) -> Json:
        note, _ = durable.read_note(self._file)
        return note or {}
