"""What to do with a step whose loss or gradient looks wrong.

Not finite: no step. Finite but more than 6 sigma above the last 128: no step (OLMo, Levanter). Three of those in a row,
or more than five in a hundred: the weights themselves are suspect, so go back to a healthy checkpoint, with half the
learning rate and other data from there on (PaLM, Chowdhery et al. 2022, section 5.1). After three times back, give up.

But where the gradients of three batches in a row are long, with losses as before, that is what gradients are like at
these weights by now: the third step is taken. Clipped, and made by Muon and AdamW, it is no longer than others.
tiny_model with 24 sequences a step went back twice in ten minutes for gradients twice as long as the mean.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any

from nanogpt.config import BAD_STEPS

WINDOW = 128
SIGMAS = 6.0
SMALLEST_SIGMA = 0.02  # as a share of the mean: on a plateau the spread is next to nothing and all would be outliers
BAD_IN_A_ROW = BAD_STEPS
LONG_IN_A_ROW = BAD_IN_A_ROW - 1  # gradients of other batches at the same weights; one more is no outlier
BAD_AMONG, RECENT = 6, 100  # so many bad ones among the last so many
MAX_REWINDS = 3
LEARNING_RATE_AFTER_REWIND = 0.5
NON_FINITE, SPIKE = "non-finite", "spike"  # why a step is not taken


@dataclass
class Stability:
    """The judge's memory; all of it is in the checkpoint, so a resumed run judges as the uninterrupted one."""

    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    gradient_norms: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    skipped: int = 0
    bad_in_a_row: int = 0
    long_in_a_row: int = 0  # of those: the gradient alone was an outlier
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT))  # bad or not, oldest first

    def judge(self, loss: float, gradient_norm: float) -> str:
        """ "" to take the step, or why it is skipped: "non-finite" or "spike"."""
        verdict, is_long = self._verdict(loss, gradient_norm)
        if not verdict:
            self.losses.append(loss)
            self.gradient_norms.append(gradient_norm)
        self.long_in_a_row = self.long_in_a_row + 1 if is_long else 0
        self.recent.append(bool(verdict))
        self.skipped += bool(verdict)
        self.bad_in_a_row = self.bad_in_a_row + 1 if verdict else 0
        return verdict

    def _verdict(self, loss: float, gradient_norm: float) -> tuple[str, bool]:
        """judge()'s, and whether the step is skipped for its gradient alone."""
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            return NON_FINITE, False
        if _is_outlier(loss, self.losses):
            return SPIKE, False
        is_long = _is_outlier(gradient_norm, self.gradient_norms) and self.long_in_a_row < LONG_IN_A_ROW
        return (SPIKE, True) if is_long else ("", False)

    @property
    def suspicion(self) -> str:
        """ "" or why the weights are suspect: too many bad steps in a row, or among the last hundred."""
        if self.bad_in_a_row >= BAD_IN_A_ROW:
            return f"{self.bad_in_a_row} bad steps in a row"
        if sum(self.recent) >= BAD_AMONG:
            return f"{sum(self.recent)} bad steps among the last {len(self.recent)}"
        return ""

    def steps_since_healthy(self) -> int:
        """How many steps back the bad ones began: the last row of them, or the first among the last hundred."""
        if self.bad_in_a_row >= BAD_IN_A_ROW:
            return self.bad_in_a_row
        return len(self.recent) - self.recent.index(True)

    def forgive(self) -> None:
        """Count bad steps anew: those before a rewind are not held against the weights that it brought back."""
        self.recent.clear()
        self.bad_in_a_row = self.long_in_a_row = 0

    def recent_loss(self) -> float | None:
        """Mean training loss over the window."""
        return fmean(self.losses) if self.losses else None

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists only."""
        return {
            "losses": list(self.losses),
            "gradient_norms": list(self.gradient_norms),
            "skipped": self.skipped,
            "bad_in_a_row": self.bad_in_a_row,
            "long_in_a_row": self.long_in_a_row,
            "recent": list(self.recent),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "Stability":
        """What state_dict() gave."""
        return cls(
            deque(state["losses"], WINDOW),
            deque(state["gradient_norms"], WINDOW),
            state["skipped"],
            state["bad_in_a_row"],
            state.get("long_in_a_row", 0),
            deque(state.get("recent", ()), RECENT),
        )


def _is_outlier(value: float, window: deque[float]) -> bool:
    if len(window) < WINDOW or value <= max(window):
        return False
    mean = fmean(window)
    return value > mean + SIGMAS * max(pstdev(window, mean), SMALLEST_SIGMA * mean)
