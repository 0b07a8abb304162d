"""Layers whose weights are yet to be set, on the CPU.

torch.nn.utils.skip_init() empties them with Module.to_empty(), and draws an embedding on the meta device. For the first
torch imports sympy (0.3 s of each process), for the second all of its compiler (1.1 s).
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
