"""Muon as it was before its orthogonalisation got cheaper (nanogpt.training.update.muon).

Checkpoints whose state names no method were made with this one, and their trainings continue with it to the same bytes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt.training.update.gradients import gradient_of

NEWTON_SCHULZ = "newton-schulz-5"
# Quintic with the steepest slope at zero that still keeps singular values near 1 (Jordan et al. 2024).
QUINTIC = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Replace each singular value of `matrices` (k, rows <= columns) by about 1, computing in `dtype`.

    Newton-Schulz iteration X <- aX + (bA + cA²)X with A = XXᵀ (Jordan et al. 2024, "Muon"). All k at once: on two
    cores 16 of 128 x 128 take 1.3 ms in bfloat16 and 3.6 ms in float32.
    """
    a, b, c = QUINTIC
    norms: Tensor = matrices.norm(dim=(1, 2), keepdim=True) + 1e-7
    x = (matrices / norms).to(dtype)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT  # (k, rows, rows)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


@dataclass
class _SameShape:
    """Matrices that are orthogonalised together; tall ones lie down so that the Gram matrix is the small one."""

    rows: int
    columns: int
    weights: list[Tensor] = field(default_factory=list)  # views of the parameters, each (rows, columns)
    places: list[tuple[nn.Parameter, int, bool]] = field(default_factory=list)  # parameter, block in it, lies down
    scales: list[float] = field(default_factory=list)


class NewtonSchulzMuon:
    """Five steps of Newton-Schulz, queries and keys as one matrix each over all heads.

    W <- W - lr · sqrt(max(1, rows / columns)) · orthogonalize(Nesterov momentum), weight decay decoupled.
    `row_blocks` says which parameters are several matrices on top of one another (query, key, value).
    """

    method = NEWTON_SCHULZ

    def __init__(
        self,
        row_blocks: dict[nn.Parameter, tuple[int, ...]],
        learning_rate: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype,
    ):
        self.row_blocks = row_blocks
        self.learning_rate, self.momentum, self.weight_decay, self.dtype = learning_rate, momentum, weight_decay, dtype
        self.groups = self._group()
        self.scales = [torch.tensor(g.scales, device=g.weights[0].device)[:, None, None] for g in self.groups]
        self.momenta = [torch.zeros_like(torch.stack(g.weights)) for g in self.groups]

    def _group(self) -> list[_SameShape]:
        groups: dict[tuple[int, int], _SameShape] = {}
        for parameter, blocks in self.row_blocks.items():
            for index, block in enumerate(torch.split(parameter.detach(), list(blocks))):
                tall = block.size(0) > block.size(1)
                weight = block.mT if tall else block
                rows, columns = weight.shape
                group = groups.setdefault((rows, columns), _SameShape(rows, columns))
                group.weights.append(weight)
                group.places.append((parameter, index, tall))
                group.scales.append(math.sqrt(max(1.0, block.size(0) / block.size(1))))
        return list(groups.values())

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update with `factor` of the peak learning rate."""
        rate = self.learning_rate * factor
        blocks = {p: torch.split(gradient_of(p), list(rows)) for p, rows in self.row_blocks.items()}
        for group, momentum, scales in zip(self.groups, self.momenta, self.scales, strict=True):
            gradients = [blocks[p][index].mT if tall else blocks[p][index] for p, index, tall in group.places]
            gradient = torch.stack(gradients)  # (k, rows, columns)
            momentum.lerp_(gradient, 1 - self.momentum)
            update = orthogonalize(gradient.lerp_(momentum, self.momentum), self.dtype)
            update = update.to(momentum.dtype).mul_(scales)
            if self.weight_decay:
                torch._foreach_mul_(group.weights, 1 - rate * self.weight_decay)
            torch._foreach_add_(group.weights, update.unbind(), alpha=-rate)

    def state_dict(self) -> dict[str, Any]:
        """The method, and the momenta, one (k, rows, columns) a shape."""
        return {"method": self.method, "momenta": self.momenta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what state_dict() gave."""
        for mine, saved in zip(self.momenta, state["momenta"], strict=True):
            mine.copy_(saved)
