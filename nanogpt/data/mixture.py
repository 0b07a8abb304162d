"""Samples of several texts, by weight: the index of a sample alone decides its text and its place there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nanogpt.data.data_loader import Loader, Samples
from nanogpt.data.shard_file import Ids, Tokens

CYCLE = 1000  # samples in which each text has its share exactly, to a thousandth
TAG = 0x317  # with it in their key, these numbers are no others that come from a training's seed


class Mixture(Loader):
    """Of each 1,000 samples in a row each text has its share. Its windows come as in Samples: all once, then again."""

    def __init__(self, texts: Mapping[str, Tokens], weights: Sequence[float], block_size: int, seed: int):
        """`texts`: (T,) each, T > block_size; `weights`: positive, of any sum. Raises UserError for one too short."""
        seeds = np.random.SeedSequence([seed, TAG]).generate_state(len(texts)).tolist()
        self.names = tuple(texts)
        self.texts = [Samples(text, block_size, own) for text, own in zip(texts.values(), seeds, strict=True)]
        self.block_size, self.seed = block_size, seed
        self.shares = shares_of(weights, CYCLE)
        self._first = np.cumsum(self.shares) - self.shares  # of the slots of each text in a cycle
        self._cycle, self._slots = -1, np.zeros(0, np.int64)  # the one that was looked at last

    def window(self, index: int) -> Ids:
        text, its_index = self._place(index)
        return self.texts[text].window(its_index)

    def source(self, index: int) -> int:
        return self._place(index)[0]

    def _place(self, index: int) -> tuple[int, int]:
        """The text of a sample, and its index among the samples of that text."""
        cycle, position = divmod(index, CYCLE)
        if cycle != self._cycle:
            generator = np.random.Generator(np.random.PCG64([self.seed, cycle, TAG]))
            self._cycle, self._slots = cycle, generator.permutation(CYCLE)
        slot = self._slots[position]
        text = int(np.searchsorted(self._first, slot, side="right")) - 1
        return text, cycle * int(self.shares[text]) + int(slot - self._first[text])


def shares_of(weights: Sequence[float], total: int) -> npt.NDArray[np.int64]:
    """`total` divided by weight: whole numbers of at least 1, by the method of largest remainders."""
    exact = np.asarray(weights) / sum(weights) * total
    shares = np.maximum(1, exact.astype(np.int64))
    missing = total - int(shares.sum())
    if missing < 0:  # more of the least weights than there are remainders
        shares[shares.argmax()] += missing
    else:
        shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    return shares
