"""Intervals by a bootstrap over blocks of a text, for one model and for the difference between two.

Percentile intervals (Efron and Tibshirani 1993) of means over blocks (Künsch 1989). Blocks are cut by bytes, so that
models of different tokenizers are compared block by block, and what is hard or easy in the text cancels. They are long
because neighbouring windows of a text are alike: on tiny Shakespeare's test split the standard error of the mean loss
is 0.012 nats by windows of 64 characters and 0.029 by blocks of 1024; of the difference between two models, 0.0037 and
0.0056.

Few blocks say little of their own spread: the plain percentiles of two blocks would hold the truth in 53 of 100 cases,
of five in 83, of fifty in 93. So both ends are moved away from the value as Student's t is wider than the normal
distribution, and the sample's deviation than that of the draws; then it is 94 to 96 of 100 for all of these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nanogpt.evaluation.students_t import NORMAL, student_t
from nanogpt.faults import UserError
from nanogpt.results.quality import Estimate

DRAWS = 2000
PERCENTILES = (2.5, 97.5)
BLOCKS, MOST_BLOCKS = 50, 1000  # of a text; more than BLOCKS where they would be longer than LONGEST_BLOCK
SHORTEST_BLOCK, LONGEST_BLOCK = 64, 8192  # bytes

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Blocks:
    """A text of `bytes` bytes, cut into `count` blocks of equal length; the last takes the rest."""

    bytes: int
    count: int

    @classmethod
    def of(cls, size: int) -> Blocks:
        """Raises UserError for a text that is too short for two blocks: nothing could be said of the noise."""
        length = min(max(SHORTEST_BLOCK, size // BLOCKS), LONGEST_BLOCK)
        count = min(size // length, MOST_BLOCKS)
        if count < 2:
            raise UserError(f"the text has {size:,} bytes; at least {2 * SHORTEST_BLOCK} are needed to judge by it")
        return cls(size, count)

    @property
    def sizes(self) -> Floats:
        """(count,) bytes."""
        sizes = np.full(self.count, self.bytes // self.count, dtype=np.float64)
        sizes[-1] += self.bytes - sizes.sum()
        return sizes

    def sums(self, starts: Numbers, values: Floats) -> Floats:
        """`values` (N,) of tokens that begin at `starts` (N,), added up by block: (count,)."""
        blocks = np.minimum(starts // (self.bytes // self.count), self.count - 1)
        return summed(blocks, values, self.count)


def summed(groups: Numbers, values: Floats, count: int) -> Floats:
    """`values` (N,) added up by group, (count,); `groups` (N,) are 0 .. count - 1."""
    sums: Floats = np.bincount(groups, weights=values, minlength=count).astype(np.float64)
    return sums


def draws(count: int, seed: int = 0) -> Floats:
    """(DRAWS, count): how often each of `count` blocks is drawn, with replacement."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64)


@dataclass(frozen=True)
class BlockMean:
    """A mean over a text: `sums` over `sizes`, (count,) each, by block. `drawn` (DRAWS, count) as draws() gives."""

    sums: Floats
    sizes: Floats
    drawn: Floats

    @property
    def value(self) -> float:
        return float(self.sums.sum() / self.sizes.sum())

    def estimate(self, most: float = math.inf) -> Estimate:
        """With its interval; nothing that is averaged here is below 0, or above `most`.

        One block says nothing of the noise: then, if there is a `most`, the interval is all that is possible.
        """
        if math.isfinite(most) and np.count_nonzero(self.sizes) < 2:
            return Estimate(self.value, 0.0, most)
        found = self._estimate(self.value, self._drawn_values())
        return Estimate(found.value, max(0.0, found.low), min(most, found.high))

    def less(self, other: BlockMean) -> Estimate:
        """This mean less another of the same text, on the same draws: what is hard in the text cancels."""
        return self._estimate(self.value - other.value, self._drawn_values() - other._drawn_values())

    def _drawn_values(self) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw without any of the few that there are
            values: Floats = (self.drawn @ self.sums) / (self.drawn @ self.sizes)
        return values

    def _estimate(self, value: float, drawn_values: Floats) -> Estimate:
        low, high = (float(end) for end in np.nanpercentile(drawn_values, PERCENTILES))
        count = int(np.count_nonzero(self.sizes))
        wider = student_t(count - 1) / NORMAL * math.sqrt(count / max(1, count - 1))
        return Estimate(value, value + wider * (low - value), value + wider * (high - value))
