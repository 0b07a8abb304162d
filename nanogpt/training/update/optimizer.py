"""AdamW, and Muon for the hidden matrices with AdamW for the rest."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt.config import TrainingConfig
from nanogpt.model.gpt import GPT

# Quintic with the steepest slope at zero that still keeps singular values near 1 (Jordan et al. 2024).
QUINTIC = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MUON_COMPANION_EPS = 1e-10  # AdamW's 1e-8 damps the small gradients of a head that starts at zero


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


class Muon:
    """Momentum whose step is orthogonalised: each direction of a matrix moves equally far.

    W <- W - lr · sqrt(max(1, rows / columns)) · orthogonalize(Nesterov momentum), weight decay decoupled.
    `row_blocks` says which parameters are several matrices on top of one another (query, key, value).
    """

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
        """Momenta, one (k, rows, columns) a shape."""
        return {"momenta": self.momenta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what state_dict() gave."""
        for mine, saved in zip(self.momenta, state["momenta"], strict=True):
            mine.copy_(saved)


class Optimizer:
    """All updates of one training step, with one dial: the factor on each peak learning rate."""

    def __init__(self, model: GPT, config: TrainingConfig, newton_schulz_dtype: torch.dtype = torch.float32):
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.muon: Muon | None = None
        if _takes_muon(config):
            self.muon = Muon(
                model.row_blocks(),
                config.muon_learning_rate,
                config.muon_momentum,
                config.weight_decay,
                newton_schulz_dtype,
            )
        groups = _adamw_groups(model, config)
        self.peaks = [group["lr"] for group in groups]
        eps = MUON_COMPANION_EPS if self.muon else 1e-8
        self.adamw = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=eps, fused=True)

    def step(self, factor: float) -> None:
        """Update all parameters from their gradients with `factor` of each peak learning rate."""
        for group, peak in zip(self.adamw.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.adamw.step()
        if self.muon:
            self.muon.step(factor)

    def forget_gradients(self) -> None:
        """Drop the gradients: the next backward pass writes instead of adding."""
        for parameter in self.parameters:
            parameter.grad = None

    def gradient_norm(self) -> Tensor:
        """Euclidean norm of all gradients together, a scalar on their device."""
        gradients = [gradient_of(parameter) for parameter in self.parameters]
        return torch.nn.utils.get_total_norm(gradients)  # foreach=True is refused on MPS

    def scale_gradients(self, factor: float) -> None:
        """Multiply all gradients by `factor`."""
        torch._foreach_mul_([gradient_of(p) for p in self.parameters], factor)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers only, loadable with weights_only."""
        return {"adamw": self.adamw.state_dict(), "muon": self.muon.state_dict() if self.muon else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what state_dict() gave."""
        self.adamw.load_state_dict(state["adamw"])
        if self.muon:
            self.muon.load_state_dict(state["muon"])


def _takes_muon(config: TrainingConfig) -> bool:
    """Adapters are AdamW's: only the product of the two small matrices is a map whose directions count equally."""
    return config.optimizer == "muon" and not config.lora_rank


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """The gradient of a parameter that had one in the last backward pass. Raises RuntimeError for another."""
    if parameter.grad is None:
        raise RuntimeError(f"a parameter of shape {tuple(parameter.shape)} has no gradient")
    return parameter.grad


def _adamw_groups(model: GPT, config: TrainingConfig) -> list[dict[str, Any]]:
    """Parameters by peak learning rate and weight decay.

    Alone, AdamW decays what has two dimensions (nanoGPT). Next to Muon it has the head, the vectors and the tables;
    a tied table keeps the head's rate, because 0.05 is too much for a head.
    """
    matrices = set(model.matrices()) if _takes_muon(config) else set()
    tables = set(model.embedding_parameters()) if _takes_muon(config) else set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        if parameter in matrices or not parameter.requires_grad:
            continue
        is_tied = parameter is model.head.weight
        rate = config.embedding_learning_rate if parameter in tables and not is_tied else config.learning_rate
        decay = config.weight_decay if parameter.dim() >= 2 and parameter not in tables else 0.0
        groups[rate, decay].append(parameter)
    return [dict(params=list(g), lr=rate, weight_decay=decay) for (rate, decay), g in groups.items()]
