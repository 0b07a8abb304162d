"""Causal attention over short windows, QK-norm and rotation included, with its gradient written out for CPUs.

torch's kernel works tile by tile. Here it is a few batched products over whole (T, T) tables, which is faster on a CPU
that multiplies bfloat16 in hardware: forward and backward take 3.8 instead of 6.9 ms (12 windows of 128, 4
heads of 64, one core) and 5.2 instead of 10.9 ms (2 x 256, 12 heads); float32 gains nothing.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nanogpt.machine import has_bfloat16_instructions
from nanogpt.model.limits import SHORT_WINDOW
from nanogpt.model.saved import Saved


def applies(heads: Tensor) -> bool:
    """Whether this is faster than torch's kernel for heads (B, T, ..., head_dim)."""
    return (
        heads.device.type == "cpu"
        and heads.dtype == torch.bfloat16
        and heads.size(1) <= SHORT_WINDOW
        and has_bfloat16_instructions()
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


class SavedHeads(Saved, Protocol):
    """With how many of the heads are queries, and how many keys."""

    n_head: int
    n_kv_head: int


class ShortAttention(torch.autograd.Function):
    """apply(heads, q_weight, k_weight, eps, cos, sin, n_head, n_kv_head) -> (B, T, n_head * head_dim).

    heads (B, T, n_head + 2 n_kv_head, head_dim): queries, keys, values. q_weight, k_weight (head_dim): of the RMSNorm
    of queries and keys, or None. cos, sin (T, 1, head_dim): the rotary tables, or None.
    """

    @staticmethod
    def forward(
        ctx: SavedHeads,
        heads: Tensor,
        q_weight: Tensor | None,
        k_weight: Tensor | None,
        eps: float | None,
        cos: Tensor | None,
        sin: Tensor | None,
        n_head: int,
        n_kv_head: int,
    ) -> Tensor:
        turned = n_head + n_kv_head  # queries and keys; the values are neither normalised nor rotated
        # (heads, B, T, head_dim): each head's rows lie together; of one position, too, it is written to, not the input
        packed = heads.permute(2, 0, 1, 3).clone(memory_format=torch.contiguous_format)
        inverse = weight = None
        if q_weight is not None or cos is not None:
            x = _exact(heads[:, :, :turned])  # (B, T, turned, head_dim); from here on in place, to stay in the cache
            if q_weight is not None and k_weight is not None and eps is not None:
                weight = torch.cat([q_weight.expand(n_head, -1), k_weight.expand(n_kv_head, -1)])  # (turned, head_dim)
                inverse = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()  # 1 / rms, (B, T, turned, 1)
                x.mul_(inverse).mul_(weight)
            if cos is not None and sin is not None:
                # As wide as all heads: a product with a table for one head takes 33 us, with this one 22.
                cos, sin = (table.expand(-1, turned, -1).contiguous() for table in (cos, sin))  # (T, turned, head_dim)
                swapped = _swap_halves(x)
                x.mul_(cos).addcmul_(swapped, sin)
            packed[:turned] = x.permute(2, 0, 1, 3)
        q, k, v = _queries_keys_values(packed, n_head, n_kv_head)
        probabilities = _probabilities(q, k)
        y = torch.bmm(probabilities, v)  # (n_head B, T, head_dim)
        ctx.save_for_backward(heads, packed, probabilities, inverse, weight, cos, sin)
        ctx.n_head, ctx.n_kv_head = n_head, n_kv_head
        B, T, _, D = heads.shape
        return y.view(n_head, B, T, D).permute(1, 2, 0, 3).reshape(B, T, n_head * D)

    @staticmethod
    @once_differentiable
    def backward(ctx: SavedHeads, gradient: Tensor) -> tuple[Tensor | None, ...]:
        heads, packed, probabilities, inverse, weight, cos, sin = ctx.saved_tensors
        n_head, n_kv_head = ctx.n_head, ctx.n_kv_head
        turned, (B, T, _, D) = n_head + n_kv_head, heads.shape
        q, k, v = _queries_keys_values(packed, n_head, n_kv_head)
        grad_y = gradient.view(B, T, n_head, D).permute(2, 0, 1, 3).reshape(-1, T, D)  # (n_head B, T, head_dim)
        grad_v = torch.bmm(probabilities.mT, grad_y)
        grad_probabilities = torch.bmm(grad_y, v.mT)
        grad_scores = torch._softmax_backward_data(grad_probabilities, probabilities, -1, probabilities.dtype)
        grad_q = torch.bmm(grad_scores, k).view(n_head, B, T, D)
        grad_k = _of_shared(torch.bmm(grad_scores.mT, q).view(n_head, B, T, D), n_kv_head)
        grad_heads = torch.empty_like(heads)
        grad_heads[:, :, turned:] = _of_shared(grad_v.view(n_head, B, T, D), n_kv_head).permute(1, 2, 0, 3)
        grad_x = _exact(torch.cat([grad_q, grad_k]).permute(1, 2, 0, 3)).mul_(D**-0.5)  # (B, T, turned, head_dim)
        grad_q_weight = grad_k_weight = None
        if cos is not None:  # a rotation's transpose is the rotation back
            swapped = _swap_halves(grad_x)
            grad_x.mul_(cos).addcmul_(swapped, sin, value=-1)
        if weight is not None:
            unit = _exact(heads[:, :, :turned]).mul_(inverse)
            product = grad_x * unit
            grad_q_weight, grad_k_weight = (part.sum(0) for part in product.sum((0, 1)).split([n_head, n_kv_head]))
            along = product.mul_(weight).mean(-1, keepdim=True)  # as in norm.py
            grad_x.mul_(weight).addcmul_(unit, along, value=-1).mul_(inverse)
        grad_heads[:, :, :turned] = grad_x
        return grad_heads, grad_q_weight, grad_k_weight, None, None, None, None, None


def _exact(x: Tensor) -> Tensor:
    """A copy in float32, or what is more exact than that."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.to(dtype, memory_format=torch.contiguous_format, copy=True)


def _swap_halves(x: Tensor) -> Tensor:
    return x.roll(x.size(-1) // 2, dims=-1)


def _queries_keys_values(packed: Tensor, n_head: int, n_kv_head: int) -> list[Tensor]:
    """(heads, B, T, head_dim) -> three of (n_head B, T, head_dim); shared keys and values are repeated."""
    parts = packed.split([n_head, n_kv_head, n_kv_head])
    repeats = (n_head // part.size(0) for part in parts)
    return [
        (part.repeat_interleave(n, dim=0) if n > 1 else part).flatten(0, 1)
        for part, n in zip(parts, repeats, strict=True)
    ]


def _of_shared(gradient: Tensor, n_kv_head: int) -> Tensor:
    """The sum over the query heads that share a key head: (n_head, ...) -> (n_kv_head, ...)."""
    return gradient if gradient.size(0) == n_kv_head else gradient.unflatten(0, (n_kv_head, -1)).sum(1)


def _probabilities(q: Tensor, k: Tensor) -> Tensor:
    """Softmax of the scaled scores over the present and the past: (n, T, head_dim) twice -> (n, T, T)."""
    T, D = q.shape[1:]
    future = torch.full((T, T), -torch.inf, dtype=q.dtype).triu_(1)
    return torch.baddbmm(future.expand(len(q), T, T), q, k.mT, alpha=D**-0.5).softmax(-1)
