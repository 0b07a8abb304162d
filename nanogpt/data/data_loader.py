"""Which tokens a step sees: a pure function of (seed, sample index), so that a resumed run needs no saved position.

An epoch cuts the text into windows of block_size, beginning at a phase of its own, and shuffles them. Every window is
seen once before any is seen again, and different epochs cut at different places.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from nanogpt.data.shard_file import Tokens
from nanogpt.data.shards import check_fits

IGNORED = -1  # a target that does not count


class Samples:
    """Endless training samples. Sample i is window `order(epoch)[i % windows_per_epoch]` of epoch i // that."""

    def __init__(self, tokens: Tokens, block_size: int, seed: int):
        """`tokens` (T,) of any unsigned type, T > block_size. Raises UserError when it is shorter."""
        check_fits(len(tokens), block_size)
        self.tokens, self.block_size, self.seed = tokens, block_size, seed
        # One window less than fits, so that every phase in [0, block_size) has the same number of windows.
        self.windows_per_epoch = max(1, len(tokens) // block_size - 1)
        self._phases = min(block_size, len(tokens) - block_size)
        self._epoch, self._starts = -1, np.zeros(0, np.int64)

    def starts(self, epoch: int) -> npt.NDArray[np.int64]:
        """(windows_per_epoch,): where each window of an epoch begins, in the order in which they are seen."""
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            phase = int(generator.integers(self._phases))
            order = generator.permutation(self.windows_per_epoch)
            self._epoch, self._starts = epoch, phase + order * self.block_size
        return self._starts

    def batch(self, first_index: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples first_index .. first_index + count - 1: inputs and targets, each (count, block_size) int64."""
        block = np.empty((count, self.block_size + 1), dtype=np.int64)
        for row in range(count):
            epoch, position = divmod(first_index + row, self.windows_per_epoch)
            start = self.starts(epoch)[position]
            block[row] = self.tokens[start : start + self.block_size + 1]
        return torch.from_numpy(block[:, :-1].copy()), torch.from_numpy(block[:, 1:].copy())


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
