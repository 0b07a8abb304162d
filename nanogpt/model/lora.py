"""Low-rank adapters (Hu et al. 2021): the model's matrices stay as they are, and each learns a small product to add.

    y = x Wᵀ + (alpha / rank) x Aᵀ Bᵀ        W (out, in) frozen, A (rank, in), B (out, rank) starting at zero

Where several matrices are stacked in one (query, key and value; gate and up), each has an A and a B of its own, as it
has where they are stored apart: a stack of n holds A as (n rank, in) and the rows of B block by block.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.model.gpt import GPT, weight_of

ADAPTER_NAMES = ("lora_A", "lora_B")


class AdaptedLinear(nn.Module):
    """A frozen linear map with its adapters; weight and bias keep their names, so a model's own weights fit in."""

    def __init__(self, linear: nn.Linear, row_blocks: tuple[int, ...], rank: int, alpha: float):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.row_blocks, self.rank, self.scale = row_blocks, rank, alpha / rank
        rows, columns = linear.weight.shape
        self.lora_A = nn.Parameter(linear.weight.new_empty(len(row_blocks) * rank, columns))
        self.lora_B = nn.Parameter(linear.weight.new_zeros(rows, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        low = F.linear(x, self.lora_A).split(self.rank, dim=-1)  # one (..., rank) a row block
        learned = [F.linear(part, b) for part, b in zip(low, self.lora_B.split(self.row_blocks), strict=True)]
        return F.linear(x, self.weight, self.bias) + self.scale * torch.cat(learned, dim=-1)

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The one matrix (out, in) that does the same."""
        blocks = zip(self.lora_B.split(self.row_blocks), self.lora_A.split(self.rank), strict=True)
        return self.weight + self.scale * torch.cat([b @ a for b, a in blocks])


def add_adapters(model: GPT, rank: int, alpha: float, seed: int = 1337) -> None:
    """Freeze `model` and give adapters to every matrix of its blocks; what it computes is the same as before.

    A is uniform in ±1/sqrt(in), as the paper's own code draws it, from `seed` alone.
    """
    row_blocks = model.row_blocks()
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for block in model.blocks:
        linear_maps = [(name, module) for name, module in block.named_modules() if isinstance(module, nn.Linear)]
        for name, linear in linear_maps:
            adapted = AdaptedLinear(linear, row_blocks[weight_of(linear)], rank, alpha)
            bound = 1 / math.sqrt(linear.in_features)
            with torch.no_grad():
                drawn = torch.empty(adapted.lora_A.shape).uniform_(-bound, bound, generator=generator)
                adapted.lora_A.copy_(drawn)
            block.set_submodule(name, adapted)


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapters alone, by the names of their parameters, on the CPU; empty without any."""
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if name.endswith(ADAPTER_NAMES)
    }


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """Every weight of the model without adapters that computes the same, by its name; each once, on the CPU."""
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}
    merged = {f"{name}.weight": module.merged() for name, module in adapted.items()}
    return {
        name: merged.get(name, parameter).detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if not name.endswith(ADAPTER_NAMES)
    }
