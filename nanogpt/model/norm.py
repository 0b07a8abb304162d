"""Normalisation: each position's vector to zero mean and unit variance (LayerNorm) or unit mean square (RMSNorm)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def make_norm(kind: str, width: int, eps: float, bias: bool) -> nn.Module:
    """The norm that a configuration names: "layernorm" or "rmsnorm"."""
    return LayerNorm(width, eps, bias) if kind == "layernorm" else RMSNorm(width, eps)
