"""Symptom -> remedy, as one table: what is tried, how often, and what the person is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

TOTAL_LIMIT = 12  # remedies in a row for one model; more means that something else is wrong


@dataclass(frozen=True)
class Attempt:
    """How the next try at a model differs from its configuration."""

    micro_batch: int
    device: str
    mixed_precision: bool


@dataclass(frozen=True)
class Remedy:
    name: str
    limit: int  # times in a row for one symptom before the next remedy of its row


RETRY = Remedy("go on from the last checkpoint in a fresh process", 1)
RETRY_OFTEN = Remedy("go on from the last checkpoint in a fresh process", 3)
HALVE = Remedy("halve the micro-batch, double the accumulation", 16)
CPU = Remedy("go on in float32 on the CPU", 1)

TABLE: dict[str, tuple[Remedy, ...]] = {
    "out_of_memory": (HALVE,),
    "device": (RETRY, CPU),
    "non_finite": (CPU,),
    "stall": (RETRY, CPU),
    "killed": (RETRY_OFTEN,),
    "stopped": (RETRY,),
    "crashed": (RETRY,),
    "unknown": (RETRY,),
    "corrupt_file": (RETRY,),
}
# Not in the table: user_error, disk_full, read_only. Trying again cannot mend them; the report says what does.


@dataclass
class Doctor:
    """Chooses the remedy for each symptom of one model's training and remembers what was tried."""

    given: Counter = field(default_factory=Counter)

    def recovered(self) -> None:
        """Training came further since the last remedy: what comes next is a new fault, not the old one again."""
        self.given.clear()

    def prescribe(self, symptom: str, attempt: Attempt) -> tuple[Remedy, Attempt] | None:
        """The remedy and the changed attempt, or None when nothing is left to try."""
        if self.given.total() >= TOTAL_LIMIT:
            return None
        for remedy in TABLE.get(symptom, ()):
            changed = _apply(remedy, attempt)
            if changed is not None and self.given[symptom, remedy] < remedy.limit:
                self.given[symptom, remedy] += 1
                return remedy, changed
        return None


def _apply(remedy: Remedy, attempt: Attempt) -> Attempt | None:
    """The attempt after `remedy`, or None where it would change nothing."""
    if remedy is HALVE:
        return replace(attempt, micro_batch=attempt.micro_batch // 2) if attempt.micro_batch > 1 else None
    if remedy is CPU:
        changed = replace(attempt, device="cpu", mixed_precision=False)
        return changed if changed != attempt else None
    return attempt
