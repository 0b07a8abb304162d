"""The samples of a step on the device, in micro-batches that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise, repeat
from typing import NamedTuple

import torch
from torch import Tensor

from nanogpt.data.data_loader import Batch, Loader
from nanogpt.training.stopping import StopRequest
from nanogpt.training.update.growth import Piece, StepData


class Pass(NamedTuple):
    """What a forward and backward pass sees: inputs and targets, (windows, tokens) int64 each.

    `sources`, of a mixture: which of its texts each window is of, (windows,) int64.
    """

    inputs: Tensor
    targets: Tensor
    sources: Tensor | None


class MicroBatches:
    """Forward and backward passes see `size` windows of `context` tokens at once; `size` falls when memory runs out.

    Pieces are made one at a time: a step may have a million of them.
    """

    def __init__(self, samples: Loader, device: str, size: int, context: int, stop: StopRequest):
        self.feed, self.size, self.context = Feed(samples, device, stop), size, context
        self.block_size = samples.block_size

    def of(self, data: StepData) -> Iterator[Pass]:
        """One pass after another, in windows of data.window tokens."""
        tokens_at_once = self.size * self.context
        count = max(1, tokens_at_once // self.block_size)  # samples in a piece
        following = data.cursor + data.batch, min(count, data.batch)  # probably the next step's first piece
        for piece, next_piece in pairwise(chain(data.pieces(count), [following])):
            inputs, targets = (part.view(-1, data.window) for part in self.feed.take(piece))
            windows_at_once = min(tokens_at_once // data.window, len(inputs))  # torch takes no more than 64 bits
            sources = self._sources(piece, len(inputs))
            yield from map(
                Pass,
                torch.split(inputs, windows_at_once),
                torch.split(targets, windows_at_once),
                repeat(None) if sources is None else torch.split(sources, windows_at_once),
            )
            self.feed.prefetch(next_piece)  # while an accelerator computes the pass

    def _sources(self, piece: Piece, windows: int) -> Tensor | None:
        """(windows,): which text of a mixture each window of a piece is of."""
        samples, (first, count) = self.feed.samples, piece
        if not samples.names:
            return None
        of_samples = torch.tensor([samples.source(index) for index in range(first, first + count)])
        return of_samples.repeat_interleave(windows // count).to(self.feed.device)

    def shape(self, data: StepData) -> tuple[int, int]:
        """Windows and tokens of each, in the first pass of a step."""
        return min(self.size * self.context, data.batch * self.block_size) // data.window, data.window

    def windows_at_once(self, data: StepData) -> int:
        """Windows of `context` tokens that a pass of this step really has: a small step fills no micro-batch."""
        return min(self.size, data.batch * self.block_size // self.context)


class Feed:
    """Samples on the device. An accelerator computes while the next piece is gathered, pinned and sent to it."""

    def __init__(self, samples: Loader, device: str, stop: StopRequest | None = None):
        self.samples, self.device, self.stop = samples, device, stop or StopRequest()
        self._prefetched: dict[Piece, Batch] = {}

    def take(self, piece: Piece) -> Batch:
        """Inputs and targets, (number of samples, block_size) int64 each. Raises StopRequested while it gathers."""
        return self._prefetched.pop(piece, None) or self._load(piece)

    def prefetch(self, piece: Piece) -> None:
        """Begin to load what is probably taken next; on the CPU that would only be done sooner, not faster."""
        wanted = self.device != "cpu" and self.samples.is_ready(*piece)
        self._prefetched = {piece: self._load(piece)} if wanted else {}

    def forget(self) -> None:
        """Drop what is prefetched."""
        self._prefetched = {}

    def _load(self, piece: Piece) -> Batch:
        with self.stop.interruptible():  # a piece may have as many samples as memory takes
            inputs, targets = self.samples.batch(*piece)
        if self.device == "cuda":  # pinned memory is copied while the device computes
            inputs, targets = inputs.pin_memory(), targets.pin_memory()
            return inputs.to("cuda", non_blocking=True), targets.to("cuda", non_blocking=True)
        return inputs.to(self.device), targets.to(self.device)
