"""What every decoder offers: token ids in, logits of what comes next out, for texts that each fill a row of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from nanogpt.config import ModelConfig

Logits = npt.NDArray[np.float32]
Precision = Literal["float32", "int8"]  # of the weights in products


class Cache(Protocol):
    """What a decoder keeps of the tokens that it has read, a row for each text.

    `lengths`: how many tokens each row holds. A cache belongs to the decoder that made it.
    """

    @property
    def lengths(self) -> Sequence[int]: ...

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order, and forget the others. A row may be named several times: it is copied."""

    def copied(self, rows: Sequence[int]) -> Cache:
        """A new cache of copies of these rows, in this order."""

    def join(self, other: Cache) -> None:
        """Append the rows of `other`, a cache of the same decoder, which is not to be used afterwards."""

    def cut(self, lengths: Sequence[int]) -> None:
        """Forget what each row holds beyond `lengths`, one for each row, none longer than the row."""


class Decoder(Protocol):
    """A model that is ready to decode. Its answers are numpy arrays, whatever computes them.

    `config`: the model's shape. `name`: "torch", "onnxruntime" or "c". `description`: the same with precision and
    threads, for people.
    """

    @property
    def config(self) -> ModelConfig: ...

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    def new_cache(self) -> Cache:
        """A cache without rows; prefill() makes them."""

    def prefill(self, prompts: Sequence[Sequence[int]], cache: Cache, *, every: bool = False) -> Logits:
        """Each row reads its tokens, one or more, behind what it holds -> logits (B, vocab_size) behind its last one.

        A cache without rows gets one for each prompt. With `every`, logits (N, vocab_size) behind each of the N tokens
        of all prompts, row by row. Raises ValueError when a row would hold more than block_size tokens.
        """

    def step(self, tokens: npt.NDArray[np.int64], cache: Cache) -> Logits:
        """Each row reads one token of tokens (B,) -> logits (B, vocab_size). Raises ValueError as prefill() does."""


def check_lengths(config: ModelConfig, lengths: Sequence[int]) -> None:
    """Raise ValueError when a row would hold more than block_size tokens."""
    longest = max(lengths, default=0)
    if longest > config.block_size:
        raise ValueError(f"sequence of {longest} tokens is longer than block_size {config.block_size}")
