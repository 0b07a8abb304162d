"""The kernels with their gradients: a whole transformer block, and a norm, as functions that autograd knows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nanogpt.kernels import operations, whole_block
from nanogpt.kernels.operations import Dropout, Heads, Normed
from nanogpt.kernels.whole_block import PARAMETERS, BlockShape


class _Context(Protocol):
    """What torch hands to the two passes of an autograd function."""

    saved_tensors: tuple[Any, ...]
    needs_input_grad: tuple[bool, ...]
    shape: BlockShape
    dropout: Dropout | None
    product: torch.dtype
    is_whole: bool

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


def product_type() -> torch.dtype:
    """Of the matrix products here: autocast's type, or float32."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


class FusedBlock(torch.autograd.Function):
    """apply(x, cos, sin, shape, dropout, *parameters) -> (B, T, n_embd) float32, of x like it: a pre-norm transformer
    block.

    cos, sin (T, 1, head_width): the rotary tables, or None. parameters: those of PARAMETERS, None for what it lacks.
    """

    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        shape: BlockShape,
        dropout: Dropout | None,
        *parameters: Any,
    ) -> Tensor:
        (norm1, shift1, qkv, qkv_bias, q_norm, k_norm, output, output_bias,
         norm2, shift2, up, up_bias, down, down_bias) = parameters  # fmt: skip
        B, T, _ = x.shape
        product = product_type()
        ctx.shape, ctx.dropout, ctx.product = shape, dropout, product
        ctx.is_whole = whole_block.is_possible(x, product, (qkv, output, up, down))
        if ctx.is_whole:
            x, given = x.contiguous(), [each if each is None else each.contiguous() for each in (*parameters, cos, sin)]
            result, memory = whole_block.forward(x, product, shape, dropout, given)
            ctx.save_for_backward(x, memory, *given)
            return result
        qkv, output, up, down = (weight.to(product) for weight in (qkv, output, up, down))
        heads = _heads(B, T, shape, qkv_bias, q_norm, k_norm, cos, sin)
        with _given_types():  # biases are added by what reads the products
            first = operations.norm(_rows(x), None, None, norm1, shift1, shape.eps, shape.centred, product)
            projected = torch.mm(first.y, qkv.t())  # (B T, (n_head + 2 n_kv_head) head_width)
            mixed, logs = operations.attend(projected, heads)  # (B T, n_head head_width)
            attended = torch.mm(mixed, output.t())  # (B T, C)
            if dropout:
                attended, output_bias = operations.drop(attended, output_bias, dropout, 0), None
            second = operations.norm(first.x, attended, output_bias, norm2, shift2, shape.eps, shape.centred, product)
            slopes = torch.mm(second.y, up.t())  # (B T, ffn_width), of SwiGLU twice as wide
            active = operations.activate(slopes, up_bias, shape.activation)  # (B T, ffn_width)
            fed = torch.mm(active, down.t())  # (B T, C)
            if dropout:
                fed, down_bias = operations.drop(fed, down_bias, dropout, 1), None
            out = operations.add(second.x, fed, down_bias)
        ctx.save_for_backward(
            *vars(first).values(), *vars(second).values(), projected, mixed, logs, slopes, active,
            norm1, shift1, qkv, qkv_bias, q_norm, k_norm, output, norm2, shift2, up, down, cos, sin,
        )  # fmt: skip
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved, shape, dropout = ctx.saved_tensors, ctx.shape, ctx.dropout
        if ctx.is_whole:
            x, memory, *given = saved
            needed = ctx.needs_input_grad[5:]
            grad_x, of_given = whole_block.backward(
                gradient.contiguous(), x, memory, ctx.product, shape, dropout, given, needed
            )
            return grad_x, None, None, None, None, *of_given
        first, second = Normed(*saved[:4]), Normed(*saved[4:8])
        projected, mixed, logs, slopes, active = saved[8:13]
        norm1, shift1, qkv, qkv_bias, q_norm, k_norm, output, norm2, shift2, up, down, cos, sin = saved[13:]
        B, T, _ = gradient.shape
        product = projected.dtype
        heads = _heads(B, T, shape, qkv_bias, q_norm, k_norm, cos, sin)
        needs = dict(zip(PARAMETERS, ctx.needs_input_grad[5:], strict=True))
        found: dict[str, Tensor | None] = {}

        def linear_back(name: str, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
            if needs[f"{name}.weight"]:
                found[f"{name}.weight"] = torch.mm(gradient.t(), x).float()
            if needs[f"{name}.bias"] and f"{name}.bias" not in found:
                found[f"{name}.bias"] = operations.column_sums(gradient)
            return torch.mm(gradient, weight)

        def norm_back(name: str, *arguments: Any) -> tuple[Tensor, Tensor]:
            grad_x, half, found[f"{name}.weight"], found[f"{name}.bias"] = operations.norm_back(*arguments)
            return grad_x, half

        is_half = product == torch.bfloat16

        def drop_back(gradient: Tensor, part: int) -> Tensor:
            return operations.drop(gradient, None, dropout, part) if dropout else gradient

        grad_out = _rows(gradient)
        with _given_types():
            grad_active = linear_back("feedforward.down", drop_back(grad_out.to(product), 1), active, down)
            grad_hidden, found["feedforward.up.bias"] = operations.activate_back(
                grad_active, slopes, needs["feedforward.up.bias"], shape.activation
            )
            grad_normed = linear_back("feedforward.up", grad_hidden, second.y, up)
            grad_middle, grad_attended = norm_back(
                "feedforward_norm", grad_normed, second, norm2, shift2 is not None, grad_out, is_half
            )
            grad_mixed = linear_back("attention.output", drop_back(grad_attended, 0), mixed, output)
            grad_projected, of_norms = operations.attend_back(grad_mixed, projected, logs, heads)
            if of_norms is not None:
                found["attention.q_norm.weight"], found["attention.k_norm.weight"] = of_norms
            grad_normed = linear_back("attention.qkv", grad_projected, first.y, qkv)
            grad_x, _ = norm_back("attention_norm", grad_normed, first, norm1, shift1 is not None, grad_middle)
        of_parameters = (found.get(name) if needs[name] else None for name in PARAMETERS)
        return grad_x.view(gradient.shape), None, None, None, None, *of_parameters


class FusedNorm(torch.autograd.Function):
    """apply(x, weight, bias, eps, centred) -> x (..., width) float32, normalised: LayerNorm if `centred`, else RMSNorm.

    weight and bias may be None. The result is of the type of the matrix products.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, centred: bool, product: torch.dtype
    ) -> Tensor:
        normed = operations.norm(_rows(x), None, None, weight, bias, eps, centred, product)
        ctx.save_for_backward(normed.x, normed.mean, normed.inverse, weight)
        ctx.has_bias = bias is not None
        return normed.y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse, weight = ctx.saved_tensors
        flat = _rows(gradient)
        normed = Normed(x, flat, mean, inverse)
        grad_x, _, grad_weight, grad_bias = operations.norm_back(flat, normed, weight, ctx.has_bias)
        return grad_x.view(gradient.shape), None if weight is None else grad_weight, grad_bias, None, None, None


class FusedDropout(torch.autograd.Function):
    """apply(x, dropout) -> x (..., width) float32 with dropout by the first seed: torch's takes 2.3 ms of 1,536 rows of
    192 on two cores, this 0.05."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout: Dropout) -> Tensor:
        ctx.dropout = dropout
        return operations.drop(_rows(x), None, dropout, 0).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return operations.drop(_rows(gradient), None, ctx.dropout, 0).view(gradient.shape), None


def _rows(x: Tensor) -> Tensor:
    """x (..., width) -> (rows, width), one after the other in memory: a gradient may be an expanded number."""
    return x.reshape(-1, x.size(-1)).contiguous()


def _given_types() -> AbstractContextManager[object]:
    """A context in which products are of the type of what is multiplied. To enter autocast's takes 4 us."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


def _heads(
    B: int,
    T: int,
    shape: BlockShape,
    qkv_bias: Tensor | None,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
) -> Heads:
    return Heads(B, T, shape.n_head, shape.n_kv_head, shape.head_width, qkv_bias, q_norm, k_norm, shape.eps, cos, sin)
