"""What to do with a step whose loss or gradient looks wrong.

Not finite: no step. Finite but more than 6 sigma above the last 128: no step (OLMo, Levanter). Three of those in a row:
the weights themselves are suspect, so go back to a healthy checkpoint, with half the learning rate and other data
ahead (PaLM, Chowdhery et al. 2022, section 5.1). After three times back, give up.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean, pstdev

WINDOW = 128
SIGMAS = 6.0
SMALLEST_SIGMA = 0.02  # as a share of the mean: on a plateau the spread is next to nothing and all would be outliers
BAD_IN_A_ROW = 3
MAX_REWINDS = 3
LEARNING_RATE_AFTER_REWIND = 0.5


@dataclass
class Stability:
    """The judge's memory; all of it is in the checkpoint, so a resumed run judges as the uninterrupted one."""

    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    gradient_norms: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    skipped: int = 0
    bad_in_a_row: int = 0

    def judge(self, loss: float, gradient_norm: float) -> str:
        """"" to take the step, or why it is skipped: "non-finite" or "spike"."""
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            verdict = "non-finite"
        elif _is_outlier(loss, self.losses) or _is_outlier(gradient_norm, self.gradient_norms):
            verdict = "spike"
        else:
            self.losses.append(loss)
            self.gradient_norms.append(gradient_norm)
            self.bad_in_a_row = 0
            return ""
        self.skipped += 1
        self.bad_in_a_row += 1
        return verdict

    @property
    def must_rewind(self) -> bool:
        return self.bad_in_a_row >= BAD_IN_A_ROW

    def recent_loss(self) -> float | None:
        """Mean training loss over the window."""
        return fmean(self.losses) if self.losses else None

    def state_dict(self) -> dict:
        """Numbers and lists only."""
        return {"losses": list(self.losses), "gradient_norms": list(self.gradient_norms),
                "skipped": self.skipped, "bad_in_a_row": self.bad_in_a_row}  # fmt: skip

    @classmethod
    def from_state_dict(cls, state: dict) -> "Stability":
        """What state_dict() gave."""
        return cls(
            deque(state["losses"], WINDOW), deque(state["gradient_norms"], WINDOW),
            state["skipped"], state["bad_in_a_row"],
        )  # fmt: skip


def _is_outlier(value: float, window: deque[float]) -> bool:
    if len(window) < WINDOW or value <= max(window):
        return False
    mean = fmean(window)
    return value > mean + SIGMAS * max(pstdev(window, mean), SMALLEST_SIGMA * mean)
