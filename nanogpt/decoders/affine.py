"""A linear map or a norm as decoders take it."""

from dataclasses import dataclass
from typing import Generic, TypeVar

A = TypeVar("A")  # numpy's arrays, or torch's tensors


@dataclass(frozen=True)
class Affine(Generic[A]):
    """The weight (out, in) and bias (out,) of a linear map, or (width,) both of a LayerNorm or RMSNorm."""

    weight: A
    bias: A | None
