"""Training time: over all sessions, left until the deadline, and of steps alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from nanogpt.training.stopping import OutOfTime

RESERVE = 1.2  # of what the last evaluation and sample took, kept free for those at the end


class TrainingClock:
    """`deadline`: seconds of training, those of earlier sessions included; None without one.

    `evaluation_in_sequences`: the work of an evaluation in training sequences, which stands for its time until one was
    measured.
    """

    def __init__(self, deadline: float | None = None, evaluation_in_sequences: float = 0.0):
        self.deadline, self.evaluation_in_sequences = deadline, evaluation_in_sequences
        self.start()

    def start(self, spent: float = 0.0) -> None:
        """Begin to count, `spent` seconds after the training's start."""
        self.spent = spent
        self.sequences = 0  # trained on since then; steps differ in size while the batch grows
        self._started = self._lap_started = self._saved = time.monotonic()
        self._sequences_at_lap, self._aside = 0, 0.0
        self._latest: dict[str, float] = {}
        self._first = 0, 0.0  # sequences and seconds until the first step had ended
        self._stepped, self._quickest = 0.0, float("inf")  # when a step ended last, and the least seconds a sequence

    def seconds(self) -> float:
        """Training time over all sessions, evaluations and saving included."""
        return self.spent + time.monotonic() - self._started

    def stepped(self, sequences: int) -> None:
        """A step has ended, which trained on so many."""
        now = self.seconds() - self.spent
        if not self.sequences:
            self._first = sequences, now
        if sequences:
            self._quickest = min(self._quickest, (now - self._stepped) / sequences)
        self.sequences, self._stepped = self.sequences + sequences, now

    def pace(self) -> float:
        """Seconds a sequence, evaluations and saving included; 0 while none was trained on.

        Without the first step, once there is another: what is done once, such as loading code, is in it.
        """
        if not self.sequences:
            return 0.0
        sequences, seconds = self._first if self.sequences > self._first[0] else (0, 0.0)
        return (self.seconds() - self.spent - seconds) / (self.sequences - sequences)

    @property
    def knows_pace(self) -> bool:
        """Whether the time left can be judged: after the second step, or the first if another as long does not fit."""
        if not self.sequences or self.deadline is None:
            return False
        return self.sequences > self._first[0] or self.seconds() + self._first[1] > self.deadline

    def seconds_left(self) -> float:
        """Until the deadline, less the evaluation and the sample at the end; infinite without a deadline.

        An evaluation is guessed by the quickest step: any other may have a pause in it, and must not end a training.
        """
        if self.deadline is None:
            return float("inf")
        guessed = self._quickest * self.evaluation_in_sequences if self.knows_pace else 0.0
        evaluation = self._latest.get("evaluation", guessed)
        return self.deadline - self.seconds() - RESERVE * (evaluation + self._latest.get("sample", 0.0))

    def check(self) -> None:
        """Raise OutOfTime in the middle of a step that does not end in time.

        By what was measured alone: in the first step no pace is known by which to guess an evaluation.
        """
        reserved = RESERVE * (self._latest.get("evaluation", 0.0) + self._latest.get("sample", 0.0))
        if self.deadline is not None and self.seconds() + reserved >= self.deadline:
            raise OutOfTime

    @contextmanager
    def aside(self, activity: str) -> Iterator[None]:
        """Time that is not a step's."""
        began = time.monotonic()
        yield
        self._latest[activity] = time.monotonic() - began
        self._aside += self._latest[activity]

    def saved(self) -> None:
        """The state is safe as of now."""
        self._saved = time.monotonic()

    def minutes_since_saved(self) -> float:
        """In this session."""
        return (time.monotonic() - self._saved) / 60

    def lap(self) -> float:
        """Sequences a second since the last lap, steps alone."""
        now = time.monotonic()
        stepping = max(1e-9, now - self._lap_started - self._aside)
        rate = (self.sequences - self._sequences_at_lap) / stepping
        self._lap_started, self._sequences_at_lap, self._aside = now, self.sequences, 0.0
        return rate
