"""Which parts of a model nanogpt.kernels can compute, and when."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nanogpt.kernels.conditions import kernels_compute_blocks
from nanogpt.kernels.functions import FusedNorm, product_type
from nanogpt.kernels.whole_block import BlockShape
from nanogpt.model.attention import Attention
from nanogpt.model.feedforward import FeedForward
from nanogpt.model.norm import LayerNorm, RMSNorm

PRODUCTS = (torch.float32, torch.bfloat16)
Norm = LayerNorm | RMSNorm


def shape_of(
    attention_norm: nn.Module, attention: nn.Module, feedforward_norm: nn.Module, feedforward: nn.Module
) -> BlockShape | None:
    """What a block of these parts computes; None when a part is another than this model's own."""
    if not isinstance(attention, Attention) or not isinstance(feedforward, FeedForward):
        return None
    linear = (attention.qkv, attention.output, feedforward.up, feedforward.down)
    own = type(attention) is Attention and type(feedforward) is FeedForward
    own = own and all(type(module) is nn.Linear for module in linear)
    if not own or not kernels_compute_blocks(attention.head_dim):
        return None
    norms = (attention_norm, feedforward_norm, attention.q_norm or attention_norm, attention.k_norm or attention_norm)
    if not all(type(norm) in (LayerNorm, RMSNorm) and norm.eps == norms[0].eps for norm in norms):
        return None
    assert isinstance(attention_norm, Norm)
    return BlockShape(
        attention.n_head,
        attention.n_kv_head,
        attention.head_dim,
        feedforward.activation,
        isinstance(attention_norm, LayerNorm),
        attention_norm.eps,
    )


def parameters(
    attention_norm: nn.Module, attention: Attention, feedforward_norm: nn.Module, feedforward: FeedForward
) -> tuple[Tensor | None, ...]:
    """Of these parts, which have a shape_of(), in the order of nanogpt.kernels.whole_block.PARAMETERS."""
    assert isinstance(attention_norm, Norm) and isinstance(feedforward_norm, Norm)
    q_norm, k_norm = attention.q_norm, attention.k_norm
    return (
        attention_norm.weight,
        bias_of(attention_norm),
        attention.qkv.weight,
        attention.qkv.bias,
        None if q_norm is None else q_norm.weight,
        None if k_norm is None else k_norm.weight,
        attention.output.weight,
        attention.output.bias,
        feedforward_norm.weight,
        bias_of(feedforward_norm),
        feedforward.up.weight,
        feedforward.up.bias,
        feedforward.down.weight,
        feedforward.down.bias,
    )


def applies(x: Tensor, *parts: nn.Module) -> bool:
    """Whether the kernels compute `parts` of x now: on a CPU, in a type they know, unless someone watches a part."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and product_type() in PRODUCTS
        and not torch.compiler.is_compiling()
        and not any(part._forward_hooks or part._forward_pre_hooks for part in parts)
    )


def normed(norm: Norm, x: Tensor) -> Tensor:
    """norm(x), in the type of the matrix products."""
    y: Tensor = FusedNorm.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, bias_of(norm), norm.eps, isinstance(norm, LayerNorm), product_type()
    )
    return y


def bias_of(norm: Norm) -> Tensor | None:
    return norm.bias if isinstance(norm, LayerNorm) else None
