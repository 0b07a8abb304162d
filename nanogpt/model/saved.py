"""What torch hands to the two passes of an autograd function, with types: its own know a single saved tensor."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Saved(Protocol):
    """The first argument of forward() and backward()."""

    saved_tensors: tuple[Any, ...]  # each a Tensor or None, as forward() saved it

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for the backward pass."""
