"""A model made from another one, with what is to be said of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from nanogpt.model.gpt import GPT

BYTES_OF_A_FLOAT = 4


@dataclass(frozen=True)
class Variant:
    """`bytes`: of the weights in a file made for them. `same_products`: it runs as the original does, in dense float32
    products, and is as fast."""

    model: GPT
    bytes: int
    how: str
    same_products: bool = False


def copy_of(model: GPT) -> GPT:
    """The same weights, apart from `model`'s, on the CPU."""
    return copy.deepcopy(model).cpu().eval()


def float_bytes(parameters: int) -> int:
    return parameters * BYTES_OF_A_FLOAT


def dense(model: GPT, how: str) -> Variant:
    """A model whose file holds each weight as a float32."""
    return Variant(model, float_bytes(model.num_parameters()), how)
