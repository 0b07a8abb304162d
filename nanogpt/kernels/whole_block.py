"""A transformer block in one call of kernels.c for each pass: between its parts neither Python nor torch's dispatch
takes time, and products are the kernels' own or, of float32, MKL's in torch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpt.kernels.library import FLOAT, LONG, OWN, POINTER, TORCHS, load, pointer
from nanogpt.kernels.operations import ACTIVATIONS, Dropout

PARAMETERS = (
    "attention_norm.weight", "attention_norm.bias", "attention.qkv.weight", "attention.qkv.bias",
    "attention.q_norm.weight", "attention.k_norm.weight", "attention.output.weight", "attention.output.bias",
    "feedforward_norm.weight", "feedforward_norm.bias", "feedforward.up.weight", "feedforward.up.bias",
    "feedforward.down.weight", "feedforward.down.bias",
)  # fmt: skip
LONGEST_DEPTH = 3072  # of bfloat16's products in kernels.c
DOWN = PARAMETERS.index("feedforward.down.weight")


@dataclass(frozen=True)
class BlockShape:
    """What a block computes, apart from its parameters."""

    n_head: int
    n_kv_head: int
    head_width: int
    activation: str  # of operations.ACTIVATIONS
    centred: bool  # LayerNorm; else RMSNorm
    eps: float  # of all norms


class _Block(ctypes.Structure):
    """kernels.c's, field by field. parameters: in the order of PARAMETERS, then the rotary tables."""

    _fields_ = (
        ("shape", LONG * 11), ("parameters", POINTER * (len(PARAMETERS) + 2)), ("seeds", LONG * 2), ("share", FLOAT),
        ("eps", FLOAT),
    )  # fmt: skip


def is_possible(x: Tensor, product: torch.dtype, weights: Sequence[Tensor]) -> bool:
    """Whether a block of x (B, T, width) with these matrices and products of this type has them in C."""
    if product == torch.float32:
        return load().products != TORCHS
    rows = x.size(0) * x.size(1)
    sizes = [size for weight in weights for size in weight.shape]
    fits = rows > 0 and rows % 8 == 0 and all(n % 16 == 0 and n <= LONGEST_DEPTH for n in sizes)
    return fits and load().half_products == OWN


def forward(
    x: Tensor, product: torch.dtype, shape: BlockShape, dropout: Dropout | None, parameters: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor]:
    """x (B, T, width), contiguous -> the same, and what backward() needs. parameters: PARAMETERS, then cos and sin."""
    block = _block(x, product, shape, dropout, parameters)
    kept, needed, _ = _sizes(block)
    out, memory, scratch = torch.empty(x.shape), torch.empty(kept), torch.empty(needed)
    load().block_forward(ctypes.byref(block), pointer(x), pointer(out), pointer(memory), pointer(scratch))
    return out, memory


def backward(
    gradient: Tensor,
    x: Tensor,
    memory: Tensor,
    product: torch.dtype,
    shape: BlockShape,
    dropout: Dropout | None,
    parameters: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """The gradients of x and of the PARAMETERS that are needed, from that of what forward() gave, contiguous."""
    block = _block(x, product, shape, dropout, parameters)
    of_x, scratch, given = torch.empty(x.shape), torch.empty(_sizes(block)[2]), gradient.to(product)
    found = [
        torch.empty(each.shape) if each is not None and wanted else None
        for each, wanted in zip(parameters[: len(PARAMETERS)], needed, strict=True)
    ]
    load().block_backward(
        ctypes.byref(block), pointer(x), pointer(memory), pointer(gradient), pointer(given), pointer(of_x),
        pointer(scratch), (POINTER * len(found))(*map(pointer, found)),
    )  # fmt: skip
    return of_x, found


def _block(
    x: Tensor, product: torch.dtype, shape: BlockShape, dropout: Dropout | None, parameters: Sequence[Tensor | None]
) -> _Block:
    B, T, width = x.shape
    down = parameters[DOWN]
    assert down is not None
    numbers = (
        B, T, width, shape.n_head, shape.n_kv_head, shape.head_width, down.size(1),
        ACTIVATIONS.index(shape.activation), shape.centred, torch.get_num_threads(), product == torch.bfloat16,
    )  # fmt: skip
    share, seeds = (dropout.share, dropout.seeds) if dropout else (0.0, (0, 0))
    return _Block(numbers, tuple(map(pointer, parameters)), seeds, share, shape.eps)


def _sizes(block: _Block) -> list[int]:
    """Numbers that are kept, and of the memory that the forward and the backward pass need while they compute."""
    sizes = (LONG * 3)()
    load().block_sizes(ctypes.byref(block), *(ctypes.byref(sizes, at * ctypes.sizeof(LONG)) for at in range(3)))
    return list(sizes)
