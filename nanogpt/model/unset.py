"""Layers whose weights are yet to be set, on the CPU.

torch.nn.utils.skip_init() makes them by the meta device, and for that torch imports all of its compiler: 0.9 s of each
process that builds a model.
"""

import torch
from torch import nn


def unset_linear(n_in: int, n_out: int, bias: bool) -> nn.Linear:
    """weight (n_out, n_in) and bias (n_out,), both float32."""
    linear = nn.Linear(n_in, n_out, bias, device="meta")
    linear.weight = nn.Parameter(torch.empty(n_out, n_in, device="cpu"))
    if bias:
        linear.bias = nn.Parameter(torch.empty(n_out, device="cpu"))
    return linear


def unset_embedding(rows: int, width: int) -> nn.Embedding:
    """weight (rows, width), float32."""
    table: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(rows, width, device="cpu"), freeze=False)
    return table
