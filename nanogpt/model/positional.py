"""Rotary position embedding (Su et al. 2021), in the half-rotated layout of Llama and Qwen."""

import torch
from torch import Tensor, nn

Rotation = tuple[Tensor, Tensor]  # cosines and sines of some positions, (..., 1, head_dim)
Places = slice | Tensor  # of T positions: the same in every row, or (B, T) int64


class Rotary(nn.Module):
    """Tables of the rotation of every position, computed once.

    Coordinates i and i + head_dim/2 form a plane that turns by position * theta^(-2i / head_dim), so the product of
    a query at position m and a key at position n depends on m - n alone. Positions are divided by `scale`: with it
    a longer context turns no further than the shorter one that was learned (Chen et al. 2023, equation 4).
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, block_size: int, theta: float, scale: float = 1.0):
        super().__init__()
        frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angles = torch.outer(torch.arange(block_size, dtype=torch.float64) / scale, frequencies)  # (block, head_dim/2)
        cos, sin = angles.cos().float(), angles.sin().float()
        # x.roll(head_dim/2) is (second half, first half); the sign of the rotation goes into the sine's table.
        self.register_buffer("cos", torch.cat([cos, cos], dim=-1)[:, None], persistent=False)  # (block, 1, head_dim)
        self.register_buffer("sin", torch.cat([-sin, sin], dim=-1)[:, None], persistent=False)

    def forward(self, places: Places) -> Rotation:
        """The tables for these places: two of (T, 1, head_dim) or (B, T, 1, head_dim), float32."""
        return self.cos[places], self.sin[places]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn x (B, T, heads, head_dim) by the tables of its T positions."""
    cos, sin = rotation
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, dims=-1), sin)
