"""The budget's clock: the time that a machine is awake for a run, over kills and restarts, whatever its calendar says.

It reads clocks that nobody can set. Sleep does not count: `time.monotonic` stands still meanwhile (CLOCK_MONOTONIC on
Linux, mach_absolute_time on macOS), and the difference to a clock that does not is how long the machine has slept.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nanogpt import durable
from nanogpt.faults import CorruptFileError


class BudgetClock:
    """How much of the budget is spent, over kills and restarts; a new budget or a finished run winds it up again."""

    def __init__(self, path: Path, budget: float):
        self.path, self.budget = path, budget
        self._began = time.monotonic()
        self._before = 0.0
        self._stopped_at: float | None = None
        self._asleep = seconds_asleep()
        self._finished: dict[str, Any] | None = None  # the note of a finished run, while nothing is done since

    def resume(self) -> bool:
        """Take over what earlier, interrupted sessions of the same budget spent; whether there are any.

        Raises CorruptFileError when the note of it is damaged.
        """
        saved, problem = durable.read_note(self.path)
        if problem:
            raise CorruptFileError(problem)
        try:
            if saved is None or saved["budget_seconds"] != self.budget:
                return False
            self._finished = saved if saved["finished"] else saved.get("finished_before")
            if saved["finished"]:
                return False
            self._before = float(saved["spent_seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptFileError(f"it lacks {error}") from error
        return True

    def take_over(self, seconds: float) -> None:
        """Count `seconds` as spent by earlier sessions."""
        self._before = seconds

    @property
    def spent(self) -> float:
        now = time.monotonic() if self._stopped_at is None else self._stopped_at
        return self._before + now - self._began

    @property
    def left(self) -> float:
        return self.budget - self.spent

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Time that nothing is spent of: waiting for power."""
        self._stopped_at = time.monotonic()
        try:
            yield
        finally:
            self._began += time.monotonic() - self._stopped_at
            self._stopped_at = None

    def slept(self) -> float:
        """Seconds that the machine has slept since this was asked last, or since the clock was made."""
        before, self._asleep = self._asleep, seconds_asleep()
        return self._asleep - before

    def forget_finished(self) -> None:
        """There is work: from now on the note says what that takes."""
        self._finished = None

    def save(self, finished: bool = False) -> None:
        """Note what is spent; at the end of a start that had nothing to do, what the finished run had spent before it.
        A full disk costs the note, not the run."""
        note = {"budget_seconds": self.budget, "spent_seconds": round(self.spent, 1), "finished": finished,
                "noted_at": round(time.monotonic(), 1), "finished_before": self._finished}  # fmt: skip
        with suppress(OSError):
            durable.write_note(self.path, self._finished if finished and self._finished else note)


def seconds_asleep() -> float:
    """How long the machine has slept (been suspended) since it was booted; always 0 where the system does not say."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    if sys.platform == "darwin":  # clock_gettime(3): both count from the boot, the second stands still in sleep
        return time.clock_gettime(time.CLOCK_MONOTONIC_RAW) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
    return 0.0
