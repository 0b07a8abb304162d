"""Dynamic loss scaling: float16 gradients that would vanish are lifted into its range (Micikevicius et al. 2018).

The factor is a power of two, so scaling and its removal are exact. torch.amp.GradScaler does the same with the
factor on the device and a transfer of its own; here the step's judge has the gradient norm anyway.
"""

import math
from dataclasses import dataclass

FIRST = 2.0**16
LEAST = 1.0
STEPS_UNTIL_DOUBLED = 2000  # GradScaler's default


@dataclass
class LossScale:
    """What the loss is multiplied by before the backward pass; all of it is in the checkpoint."""

    factor: float = FIRST
    good_steps: int = 0

    def overflows(self, gradient_norm: float) -> bool:
        """Whether the step is to be skipped because the gradients left float16's range; adapts the factor.

        At the least factor there is nothing to lower any more: what is not finite then is a bad step of the training.
        """
        if not math.isfinite(gradient_norm):
            may_halve = self.factor > LEAST
            self.factor, self.good_steps = max(LEAST, self.factor / 2), 0
            return may_halve
        self.good_steps += 1
        if self.good_steps >= STEPS_UNTIL_DOUBLED:
            self.factor, self.good_steps = self.factor * 2, 0
        return False
