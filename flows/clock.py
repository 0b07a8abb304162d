"""The budget's clock: monotonic within a session, carried over kills and restarts by a small file."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from nanogpt import durable


class Clock:
    """How much of the budget is spent, over kills and restarts; a new budget or a finished run winds it up again."""

    def __init__(self, path: Path, budget: float):
        self.path, self.budget = path, budget
        self._began = time.monotonic()
        self._before = 0.0

    def go_on(self) -> bool:
        """Take over what earlier, interrupted sessions of the same budget spent; whether there are any."""
        try:
            saved = durable.read_json(self.path)
            if saved["finished"] or saved["budget_seconds"] != self.budget:
                return False
            self._before = float(saved["spent_seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    @property
    def spent(self) -> float:
        return self._before + time.monotonic() - self._began

    @property
    def left(self) -> float:
        return self.budget - self.spent

    def save(self, finished: bool = False) -> None:
        """Note what is spent. A full disk costs the note, not the run."""
        with suppress(OSError):
            durable.write_json(self.path, {"budget_seconds": self.budget, "spent_seconds": round(self.spent, 1),
                                           "finished": finished})  # fmt: skip
