"""Muon: momentum whose step is orthogonalised, so that each direction of a matrix moves equally far."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt.training.update.gradients import gradient_of

POLAR_EXPRESS = "polar-express-3/by-head"
# Odd quintics a x + b x³ + c x⁵ that bring singular values between 0.003 and 1 to between 0.35 and 1.65, each the best
# for what the one before leaves (Amsel et al. 2025, "The Polar Express", algorithm 1). Between 0.01 and 1 they could
# come to between 0.73 and 1.27, and learn less: docs/recipe.md.
QUINTICS = (
    (8.3837, -24.7659, 18.3571),
    (4.0434, -3.0114, 0.5695),
    (3.5056, -2.6267, 0.5257),
)
# Norm of a Gram matrix. Below about 1e-22, the squares of its numbers are 0 in float32 and so is its norm; divided by
# less than that, eigenvalues would be far above 1, where the quintics have no bounds.
NEGLIGIBLE = 1e-18


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Replace each singular value of `matrices` (k, rows, columns) by about 1, computing in `dtype`.

    All k at once. A step X <- (a + bA + cA²)X with A = XXᵀ multiplies from one side only, so the steps are taken on the
    small Gram matrix alone, and X is multiplied once, by the product of their polynomials. In bfloat16, three steps
    are stable like this and four are not: rounding makes eigenvalues of A negative, and each step multiplies them.
    """
    least = NEGLIGIBLE
    if dtype == torch.float16:  # between 6e-8 and 65504 it holds the Gram matrix of no gradient as it comes
        matrices = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + NEGLIGIBLE)
        least = torch.finfo(dtype).tiny
    x = matrices.to(dtype)
    tall = x.size(1) > x.size(2)
    gram = torch.bmm(x.mT, x) if tall else torch.bmm(x, x.mT)  # (k, n, n), n = min(rows, columns)
    norms: Tensor = gram.norm(dim=(1, 2), keepdim=True) + least  # not below the largest singular value's square
    root = _inverse_root(gram.div_(norms)).div_(norms.sqrt())
    return torch.bmm(x, root) if tall else torch.bmm(root, x)


def _inverse_root(gram: Tensor) -> Tensor:
    """About gram^(-1/2), (k, n, n), for eigenvalues up to 1; the product of the steps' polynomials."""
    product = step = _polynomial(gram, QUINTICS[0])
    for quintic in QUINTICS[1:]:
        gram = torch.bmm(step, torch.bmm(step, gram))  # of the matrices after the step
        step = _polynomial(gram, quintic)
        product = torch.bmm(step, product)
    return product


def _polynomial(gram: Tensor, quintic: tuple[float, float, float]) -> Tensor:
    """a + b gram + c gram²."""
    a, b, c = quintic
    polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    polynomial.diagonal(dim1=1, dim2=2).add_(a)
    return polynomial


@dataclass(frozen=True)
class _Run:
    """Matrices of one shape that lie on top of one another in a parameter."""

    parameter: nn.Parameter
    first: int  # row of the parameter
    count: int  # matrices
    rows: int  # of each

    def of(self, whole: Tensor) -> Tensor:
        """Their part of the parameter or of its gradient, a view (count, rows, columns)."""
        rows = whole.narrow(0, self.first, self.count * self.rows)
        matrices: Tensor = rows.unflatten(0, (self.count, self.rows))
        return matrices


class Muon:
    """Nesterov momentum, orthogonalised (Jordan et al. 2024), for parameters that are stacks of matrices.

    W <- W - lr · sqrt(max(1, rows / columns)) · orthogonalize(momentum), weight decay decoupled. `row_blocks`: the rows
    of each matrix in a parameter, from the top. With an `interval` of n, the momentum takes each step's gradient, and a
    matrix moves in every n-th step, n times as far; in which one differs by shape, so that steps take equally long.
    """

    method = POLAR_EXPRESS

    def __init__(
        self,
        row_blocks: Mapping[nn.Parameter, tuple[int, ...]],
        learning_rate: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype,
        interval: int = 1,
    ):
        self.learning_rate, self.momentum, self.weight_decay, self.dtype = learning_rate, momentum, weight_decay, dtype
        self.interval, self.steps = interval, 0
        self.stacks = _stacks(row_blocks)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update with `factor` of the peak learning rate."""
        rate = self.learning_rate * factor * self.interval
        self.steps += 1
        for index, stack in enumerate(self.stacks):
            gradients = stack.gradients()
            torch._foreach_lerp_(stack.momenta, gradients, 1 - self.momentum)
            if (self.steps + index) % self.interval:
                continue
            nesterov = torch.cat(gradients).lerp_(stack.momentum, self.momentum)  # (k, rows, columns)
            update = orthogonalize(nesterov, self.dtype)
            if self.weight_decay:
                torch._foreach_mul_(stack.weights, 1 - rate * self.weight_decay)
            torch._foreach_add_(stack.weights, update.split(stack.counts), alpha=-rate * stack.scale)

    def state_dict(self) -> dict[str, Any]:
        """The method, the steps so far, and the momenta, one (k, rows, columns) a shape."""
        return {"method": self.method, "steps": self.steps, "momenta": [stack.momentum for stack in self.stacks]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what state_dict() gave."""
        self.steps = state["steps"]
        for mine, saved in zip(self.stacks, state["momenta"], strict=True):
            mine.momentum.copy_(saved)


class _Stack:
    """Matrices of one shape, from all layers: they are orthogonalised together."""

    def __init__(self, runs: list[_Run]):
        self.runs, self.counts = runs, [run.count for run in runs]
        self.weights = [run.of(run.parameter.detach()) for run in runs]  # views (count, rows, columns)
        self.momentum = torch.zeros_like(torch.cat(self.weights))  # (k, rows, columns)
        self.momenta = list(self.momentum.split(self.counts))  # views of it, as the weights
        self.scale = math.sqrt(max(1.0, self.momentum.size(1) / self.momentum.size(2)))

    def gradients(self) -> list[Tensor]:
        """Views (count, rows, columns) of the parameters' gradients."""
        return [run.of(gradient_of(run.parameter)) for run in self.runs]


def _stacks(row_blocks: Mapping[nn.Parameter, tuple[int, ...]]) -> list[_Stack]:
    shapes: dict[tuple[int, int], list[_Run]] = defaultdict(list)
    for parameter, blocks in row_blocks.items():
        first = 0
        for rows, equal in groupby(blocks):
            run = _Run(parameter, first, len(list(equal)), rows)
            shapes[rows, parameter.size(1)].append(run)
            first += run.count * rows
    return [_Stack(runs) for runs in shapes.values()]
