"""Normalisation: each position's vector to zero mean and unit variance (LayerNorm) or unit mean square (RMSNorm)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.model.saved import Saved


class LayerNorm(nn.Module):
    """Layer normalisation with an optional bias (Ba et al. 2016). (..., n_embd) -> the same shape."""

    def __init__(self, width: int, eps: float, bias: bool):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (Zhang and Sennrich 2019). (..., width) -> the same shape."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)  # under autocast the mean of squares stays in float32
        if x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            normed: Tensor = _TrainedRMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
            return normed
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class _TrainedRMSNorm(torch.autograd.Function):
    """RMSNorm with its gradient written out: on CPUs torch composes it of fifteen passes over the data, these are ten.

    With u = x / rms(x): y = w u, so dw = sum(dy u) and dx = (w dy - u mean(w dy u)) / rms(x).
    """

    @staticmethod
    def forward(ctx: Saved, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()  # (..., 1)
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, weight)
        return unit * weight

    @staticmethod
    def backward(ctx: Saved, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        unit, inverse, weight = ctx.saved_tensors
        product = gradient * unit
        along = (product @ weight).unsqueeze(-1)  # (..., 1): the sum over the width of w dy u
        grad_x = torch.addcmul(gradient * weight, unit, along, value=-1 / weight.numel()).mul_(inverse)
        return grad_x, product.flatten(0, -2).sum(0), None


def make_norm(kind: str, width: int, eps: float, bias: bool) -> LayerNorm | RMSNorm:
    """The norm that a configuration names: "layernorm" or "rmsnorm"."""
    return LayerNorm(width, eps, bias) if kind == "layernorm" else RMSNorm(width, eps)
