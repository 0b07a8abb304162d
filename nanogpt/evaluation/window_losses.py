"""Bits per byte on the same windows of a split for every model, with intervals.

Two models are compared window by window, which cancels what is hard or easy in the text: a difference is known far more
exactly than either figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from nanogpt.data.shard_file import Ids
from nanogpt.data.shards import Split
from nanogpt.evaluation.block_bootstrap import BLOCKS, BlockMean, Floats, draws, summed
from nanogpt.faults import NonFiniteError, UserError
from nanogpt.model.gpt import GPT
from nanogpt.model.limits import TOKENS_AT_ONCE

MOST_TOKENS = 2**18  # judged on: 4,096 windows of 64


@dataclass(frozen=True)
class Windows:
    """Windows of a split, in order, evenly spread where not all are taken: tokens (W, window + 1), whole ones only."""

    tokens: npt.NDArray[np.int64]
    bytes_per_token: float  # of the whole split

    @classmethod
    def of(cls, split: Split, window: int, most_tokens: int = MOST_TOKENS) -> Windows:
        """Raises UserError when the split is too short for two windows: nothing could be said of the noise."""
        whole = (len(split.tokens) - 1) // window
        if whole < 2:
            raise UserError(
                f"the split {split.name} has {len(split.tokens):,} tokens; "
                f"two windows of {window} need {2 * window + 1:,}"
            )
        starts = _spread(whole, max(2, most_tokens // window)) * window
        rows: list[Ids] = [split.tokens[start : start + window + 1] for start in starts.tolist()]
        return cls(np.stack(rows).astype(np.int64), split.bytes / len(split.tokens))

    def spread(self, count: int) -> Windows:
        """`count` of these, or all where there are no more."""
        return replace(self, tokens=self.tokens[_spread(len(self), count)])

    def __len__(self) -> int:
        return len(self.tokens)

    def bits_per_byte(self, nats: Floats) -> Floats:
        """Nats a window, (..., W), as bits per byte of each."""
        window = self.tokens.shape[1] - 1
        bits: Floats = nats / (window * math.log(2) * self.bytes_per_token)
        return bits


def _spread(whole: int, count: int) -> npt.NDArray[np.int64]:
    """`count` of the places 0 .. whole - 1, evenly, or all of them."""
    places: npt.NDArray[np.int64] = np.linspace(0, whole - 1, min(whole, count)).round().astype(np.int64)
    return places


@torch.no_grad()
def losses(model: GPT, judged: Windows, device: str = "cpu") -> Floats:
    """Nats of each window, (W,). The model is moved to `device`. Raises NonFiniteError."""
    model.to(device).eval()
    at_once = max(1, TOKENS_AT_ONCE // judged.tokens.shape[1])
    sums = []
    for first in range(0, len(judged), at_once):
        piece = torch.from_numpy(judged.tokens[first : first + at_once]).to(device)
        logits, _ = model(piece[:, :-1])  # (rows, window, vocab_size)
        log_probabilities = torch.log_softmax(logits.float(), dim=-1)
        of_targets = log_probabilities.gather(2, piece[:, 1:, None])[..., 0]  # (rows, window)
        sums.append(-of_targets.sum(dim=1).cpu().double())  # MPS has no float64
    nats: Floats = torch.cat(sums).numpy()
    if not np.isfinite(nats).all():
        raise NonFiniteError("the loss is NaN or infinite: the model computes no probabilities")
    return nats


def mean(figures: Floats) -> BlockMean:
    """Of bits per byte of windows in order, (W,): neighbours together in one block, because they are alike."""
    count = min(BLOCKS, len(figures))
    blocks = np.arange(len(figures)) * count // len(figures)
    return BlockMean(summed(blocks, figures, count), summed(blocks, np.ones_like(figures), count), draws(count))
