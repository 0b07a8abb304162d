"""What a step sees grows: windows get longer (a curriculum), the batch gets larger. The order of the data stays.

Sources: Li et al. 2022, "The stability-efficiency dilemma" (short windows first); McCandlish et al. 2018, "An
empirical model of large-batch training" (a larger batch pays once the gradient's noise is what is left of the loss).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean

from nanogpt.config import TrainingConfig

STEPS_TO_COMPARE = 64
LEAST_FALL = 0.01  # of the mean loss, from one such number of steps to the next
Piece = tuple[int, int]  # first sample, number of samples


@dataclass(frozen=True)
class StepData:
    """What one step sees: `batch` samples from `cursor` on, cut into windows of `window` tokens."""

    cursor: int
    batch: int
    window: int

    def pieces(self, size: int) -> Iterator[Piece]:
        """The step in pieces of `size` samples, the last one of what is left."""
        end = self.cursor + self.batch
        return ((first, min(size, end - first)) for first in range(self.cursor, end, size))


def curriculum_steps(config: TrainingConfig) -> int:
    """Steps until the windows are block_size long; 0 without a curriculum.

    Counted by max_iters also where a clock ends the training earlier. Settled when the training begins, so that more
    steps later do not make the windows shorter again.
    """
    return round(config.curriculum_fraction * config.max_iters) if config.initial_block_size else 0


def window_at(step: int, first: int | None, last: int, steps: int) -> int:
    """Tokens in each window of `step`: from `first`, doubling in equal parts of `steps`, to `last`.

    The samples stay what they are: (B, last) is seen as (B · last / window, window), so a step's tokens, their order
    and their number do not change.
    """
    if first is None or step >= steps:
        return last
    doublings = (last // first).bit_length() - 1
    return first << (doublings * step // steps)


@dataclass
class BatchGrowth:
    """The number of sequences in a step: doubled, up to `whole`, whenever the training loss no longer falls.

    "No longer": the mean over the last 64 steps is less than 1 % below the mean of the 64 before. Steps that were
    skipped do not count, nor do those of a cool-down: there the falling learning rate does what a larger batch would
    (Smith et al. 2018), and the steps keep the length by which its end was planned. It is a pure function of the
    losses so far, and in the checkpoint.
    """

    size: int
    whole: int
    mean_before: float | None = None
    losses: list[float] = field(default_factory=list)

    def note(self, loss: float) -> bool:
        """Take a step's loss into account; whether the batch has doubled."""
        if self.size >= self.whole:
            return False
        self.losses.append(loss)
        if len(self.losses) < STEPS_TO_COMPARE:
            return False
        mean, before = fmean(self.losses), self.mean_before
        grows = before is not None and before - mean < LEAST_FALL * before
        self.losses, self.mean_before = [], None if grows else mean
        if grows:
            self.size *= 2
        return grows
