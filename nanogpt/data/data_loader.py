"""Which tokens a step sees: a pure function of (seed, sample index), so that a resumed run needs no saved position.

An epoch cuts the text into windows of block_size, beginning at a phase of its own, and shuffles them. Every window is
seen once before any is seen again, and different epochs cut at different places.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from nanogpt.data.augmentation import Augmentation
from nanogpt.data.order import KeyedPermutation
from nanogpt.data.shard_file import Ids, Tokens
from nanogpt.data.shards import check_fits

IGNORED = -1  # a target that does not count
# Windows of an epoch whose order is a list; that of more is computed by the page. OpenWebText: 8.8 million of 1,024.
MOST_LISTED = 10_000_000  # 80 MB
PAGE = 4096  # 0.3 ms
Batch = tuple[torch.Tensor, torch.Tensor]  # inputs and targets


class Loader(ABC):
    """Endless training samples by index."""

    block_size: int
    augmentation: Augmentation | None = None
    names: tuple[str, ...] = ()  # of the texts in a mixture

    @abstractmethod
    def window(self, index: int) -> Ids:
        """(block_size + 1,): the tokens of sample `index`, and the one that follows them."""

    def source(self, index: int) -> int:
        """Which text of a mixture sample `index` is of, by its place in `names`."""
        return 0

    def is_ready(self, first_index: int, count: int) -> bool:
        """Whether these samples can be read without waiting."""
        return True

    def batch(self, first_index: int, count: int) -> Batch:
        """Samples first_index ... first_index + count - 1: inputs and targets, each (count, block_size) int64."""
        indices = range(first_index, first_index + count)
        block = np.empty((count, self.block_size + 1), dtype=np.int64)
        for row, index in zip(block, indices, strict=True):
            row[:] = self.window(index)
        inputs, targets = block[:, :-1].copy(), block[:, 1:].copy()
        if self.augmentation:
            for row, index in zip(inputs, indices, strict=True):
                self.augmentation.apply(row, index)
        return torch.from_numpy(inputs), torch.from_numpy(targets)


def windows_in(tokens: int, block_size: int) -> int:
    """Windows of an epoch over so many tokens; 0 where there are too few for one.

    One less than fits, so that every phase in [0, block_size) has the same number of windows.
    """
    return max(1, tokens // block_size - 1) if tokens > block_size else 0


class Samples(Loader):
    """Of one text: sample i is window i % windows_per_epoch in the order of epoch i // windows_per_epoch."""

    def __init__(self, tokens: Tokens, block_size: int, seed: int):
        """`tokens` (T,) of any unsigned type, T > block_size, in one file or many. Raises UserError when too short."""
        check_fits(len(tokens), block_size)
        self.tokens, self.block_size, self.seed = tokens, block_size, seed
        self.windows_per_epoch = windows_in(len(tokens), block_size)
        self._phases = min(block_size, len(tokens) - block_size)
        self._page_size = self.windows_per_epoch if self.windows_per_epoch <= MOST_LISTED else PAGE
        self._page, self._starts = (-1, -1), np.zeros(0, np.int64)  # the one that was looked at last

    def window(self, index: int) -> Ids:
        epoch, position = divmod(index, self.windows_per_epoch)
        page, place = divmod(position, self._page_size)
        if (epoch, page) != self._page:
            self._page, self._starts = (epoch, page), self._starts_of(epoch, page)
        start = self._starts[place]
        return self.tokens[start : start + self.block_size + 1]

    def _starts_of(self, epoch: int, page: int) -> npt.NDArray[np.int64]:
        """(page_size,) or fewer: where the windows of a page of an epoch's order begin."""
        generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        phase = int(generator.integers(self._phases))
        if self.windows_per_epoch <= MOST_LISTED:
            return phase + generator.permutation(self.windows_per_epoch) * self.block_size
        first = page * self._page_size
        positions = np.arange(first, min(first + self._page_size, self.windows_per_epoch))
        return phase + KeyedPermutation(self.windows_per_epoch, [self.seed, epoch])[positions] * self.block_size


def windows(tokens: Tokens, window: int, batch_size: int = 1) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Every token but the first, once, as a target in one of the non-overlapping windows, in order.

    Yields inputs and targets (at most batch_size, window) int64; a short last window is filled with input 0 and
    target -1.
    """
    predicted = max(0, len(tokens) - 1)
    rows = -(-predicted // window)
    for first in range(0, rows, batch_size):
        count = min(batch_size, rows - first)
        piece = np.asarray(tokens[first * window : (first + count) * window + 1], dtype=np.int64)
        inputs = np.zeros(count * window, dtype=np.int64)
        targets = np.full(count * window, IGNORED, dtype=np.int64)
        inputs[: len(piece) - 1], targets[: len(piece) - 1] = piece[:-1], piece[1:]
        yield (
            torch.from_numpy(inputs).view(count, window),  # (rows, window)
            torch.from_numpy(targets).view(count, window),
        )
