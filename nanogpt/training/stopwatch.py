"""Training time: over all sessions, left until the deadline, and of stepping alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

RESERVE = 1.2  # of what the last evaluation and sample took, kept free for those at the end


class Clock:
    """Starts at `spent` seconds, those of the sessions before; `deadline` (seconds, or None) counts them as well."""

    def __init__(self, spent: float, deadline: float | None):
        self.spent, self.deadline = spent, deadline
        self.sequences = 0  # trained on in this session; steps differ in size while the batch grows
        self._started = self._lap_started = self._saved = time.monotonic()
        self._sequences_at_lap, self._aside = 0, 0.0
        self._latest: dict[str, float] = {}

    def seconds(self) -> float:
        """Training time over all sessions, with all that goes on beside stepping."""
        return self.spent + time.monotonic() - self._started

    def pace(self) -> float:
        """Seconds a sequence in this session, with all that goes on beside stepping."""
        return (self.seconds() - self.spent) / max(1, self.sequences)

    def seconds_left(self, evaluation_in_sequences: float) -> float:
        """Until the deadline, less the evaluation and the sample at the end.

        `evaluation_in_sequences`: the work of an evaluation in training sequences, by which it is guessed before the
        first.
        """
        evaluation = self._latest.get("evaluation", self.pace() * evaluation_in_sequences)
        return self.deadline - self.seconds() - RESERVE * (evaluation + self._latest.get("sample", 0.0))

    @contextmanager
    def aside(self, activity: str) -> Iterator[None]:
        """Time that is not stepping."""
        began = time.monotonic()
        yield
        self._latest[activity] = time.monotonic() - began
        self._aside += self._latest[activity]

    def saved(self) -> None:
        """The state is safe as of now."""
        self._saved = time.monotonic()

    def minutes_since_saved(self) -> float:
        """Of this session, whatever else went on."""
        return (time.monotonic() - self._saved) / 60

    def lap(self) -> float:
        """Sequences a second since the last lap, stepping alone."""
        now = time.monotonic()
        stepping = max(1e-9, now - self._lap_started - self._aside)
        rate = (self.sequences - self._sequences_at_lap) / stepping
        self._lap_started, self._sequences_at_lap, self._aside = now, self.sequences, 0.0
        return rate
