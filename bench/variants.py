"""Changes to a training that are no settings of the product: tried by bench.recipe, kept out of nanogpt/.

A change of the model comes before its optimizer is made; a change of the optimizer after; a change of a step gets the
share of the training that is done.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from nanogpt.model.gpt import GPT
from nanogpt.training.update import newton_schulz as earlier
from nanogpt.training.update.muon import Muon
from nanogpt.training.update.optimizer import Optimizer

# Coefficients of Polar Express (Amsel et al. 2025), a safety factor of 1.05 included as in modded-nanogpt.
POLAR_EXPRESS = [
    (a / 1.05, b / 1.05**3, c / 1.05**5)
    for a, b, c in [
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    ]
]


# ---- the model


def soft_cap(model: GPT, cap: float) -> None:
    """Logits within ±cap: cap · tanh(logits / cap) (Gemma 2)."""
    model.head.register_forward_hook(lambda module, inputs, logits: cap * torch.tanh(logits.float() / cap))


def lambdas(model: GPT, share_of_embedding: float) -> None:
    """Each block reads r · x + e · embedding, r and e learned, from 1 and `share_of_embedding` (modded-nanogpt)."""
    layers = model.config.n_layer
    model.residual_lambdas = nn.Parameter(torch.ones(layers))
    model.embedding_lambdas = nn.Parameter(torch.full((layers,), float(share_of_embedding)))
    embedded: list[Tensor] = []

    def mix(layer: int):
        def before(block, inputs):
            x, *rest = inputs
            if layer == 0:
                embedded[:] = [x]
            return model.residual_lambdas[layer] * x + model.embedding_lambdas[layer] * embedded[0], *rest

        return before

    for layer, block in enumerate(model.blocks):
        block.register_forward_pre_hook(mix(layer))


def scale_matrices(model: GPT, factor: float) -> None:
    """Initial hidden matrices `factor` times as large."""
    with torch.no_grad():
        for matrix in model.matrices():
            matrix.mul_(factor)


def sharpen_attention(model: GPT, gain: float) -> None:
    """Initial weights of the norms of queries and keys."""
    with torch.no_grad():
        for block in model.blocks:
            block.attention.q_norm.weight.mul_(gain)
            block.attention.k_norm.weight.mul_(gain)


def split_heads(model: GPT, which: str) -> None:
    """Muon sees each head's rows of "qk" or "qkv" as a matrix of its own."""
    whole = model.row_blocks

    def by_head() -> dict:
        blocks = whole()
        for block in model.blocks:
            attention = block.attention
            queries, keys, values = attention.row_blocks
            split = queries + keys + (values if which == "qkv" else 0)
            rest = () if which == "qkv" else (values,)
            blocks[attention.qkv.weight] = (attention.head_dim,) * (split // attention.head_dim) + rest
        return blocks

    model.row_blocks = by_head


def muon_for_head(model: GPT, _: float) -> None:
    """The head is one more of Muon's matrices."""
    matrices, blocks = model.matrices, model.row_blocks
    model.matrices = lambda: [*matrices(), model.head.weight]
    model.row_blocks = lambda: {**blocks(), model.head.weight: (model.head.weight.size(0),)}


MODEL: dict[str, Callable] = {
    "soft_cap": soft_cap, "lambdas": lambdas, "scale_matrices": scale_matrices,
    "sharpen_attention": sharpen_attention, "split_heads": split_heads, "muon_for_head": muon_for_head,
}  # fmt: skip


# ---- the optimizer


def vector_rate(optimizer: Optimizer, rate: float) -> None:
    """A peak learning rate of their own for the vectors."""
    vectors = [p for group in optimizer.adamw.param_groups for p in group["params"] if p.dim() < 2]
    for group in optimizer.adamw.param_groups:
        group["params"] = [p for p in group["params"] if p.dim() >= 2]
    optimizer.adamw.add_param_group({"params": vectors, "lr": rate, "weight_decay": 0.0})
    optimizer.peaks.append(rate)


def blocks_of_the_model(optimizer: Optimizer, _: float) -> None:
    """Muon sees the matrices of model.row_blocks(): queries and keys whole, unless `split_heads` says otherwise."""
    muon = optimizer.muon
    settings = muon.learning_rate, muon.momentum, muon.weight_decay, muon.dtype, muon.interval
    optimizer.muon = Muon(optimizer.model.row_blocks(), *settings)


OPTIMIZER: dict[str, Callable] = {
    "vector_rate": vector_rate, "blocks_of_the_model": blocks_of_the_model,
}  # fmt: skip


# ---- how Muon makes a step orthogonal


def newton_schulz(steps: int) -> Callable[[Tensor, torch.dtype], Tensor]:
    """The product's iteration with another number of steps."""
    return lambda matrices, dtype: _iterate(matrices, dtype, [earlier.QUINTIC] * steps)


def polar_express(steps: int) -> Callable[[Tensor, torch.dtype], Tensor]:
    """Coefficients that are the best for each step in turn (Amsel et al. 2025)."""
    return lambda matrices, dtype: _iterate(matrices, dtype, POLAR_EXPRESS[:steps], margin=1.01)


def express(steps: int, lowest: float) -> tuple[tuple[float, float, float], ...]:
    """Quintics for singular values from `lowest` to 1, each the best for what the ones before leave.

    Amsel et al. 2025, algorithm 1: the odd quintic that is nearest to 1 on [lowest, highest] touches the bounds
    1 - error and 1 + error in turn at `lowest`, its two extrema and `highest` (Remez).
    """
    quintics, highest = [], 1.0
    for _ in range(steps):
        extrema = np.array([3 * lowest + highest, lowest + 3 * highest]) / 4
        for _ in range(100):
            x = np.array([lowest, *extrema, highest])
            a, b, c, error = np.linalg.solve(np.stack([x, x**3, x**5, [1, -1, 1, -1]], axis=1), np.ones(4))
            extrema = np.sqrt((-3 * b + np.array([-1, 1]) * np.sqrt(9 * b * b - 20 * a * c)) / (10 * c))
        quintics.append((round(a, 4), round(b, 4), round(c, 4)))
        lowest, highest = 1 - error, 1 + error
    return tuple(quintics)


def norm_muon(beta2: float) -> Callable[[Tensor, torch.dtype], Tensor]:
    """Rows of the orthogonal step divided by their running root mean square (NorMuon, Li et al. 2025).

    Made for one training: it keeps the means, one tensor a shape. Matrices that lie down count by columns there; here
    all count by rows.
    """
    plain, means, steps = earlier.orthogonalize, {}, {}

    def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
        step = plain(matrices, dtype).float()
        shape = tuple(step.shape)
        steps[shape] = steps.get(shape, 0) + 1
        mean = means.setdefault(shape, torch.zeros(*shape[:2], 1))
        mean.lerp_(step.square().mean(2, keepdim=True), 1 - beta2)
        even = step / ((mean / (1 - beta2 ** steps[shape])).sqrt() + 1e-8)
        size = (1, 2)
        return even * (step.norm(dim=size, keepdim=True) / (even.norm(dim=size, keepdim=True) + 1e-6))

    return orthogonalize


def _iterate(matrices: Tensor, dtype: torch.dtype, coefficients: list, margin: float = 1.0) -> Tensor:
    x = (matrices / (margin * matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    for a, b, c in coefficients:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


ORTHOGONALIZE: dict[str, Callable] = {
    "newton_schulz": newton_schulz, "polar_express": polar_express, "norm_muon": norm_muon,
}  # fmt: skip


# ---- a step


def momentum_at(warm_up: tuple[float, int], step: int, peak: float) -> float:
    """Muon's momentum rising from `warm_up[0]` to `peak` over `warm_up[1]` steps (modded-nanogpt)."""
    first, steps = warm_up
    return first + (peak - first) * min(1.0, step / steps)


def decay_shape(power: float, progress: float) -> float:
    """The cool-down's factor: (1 - progress)^power, or 1 - sqrt(progress) for power 0 (Hägele et al. 2024)."""
    return 1 - math.sqrt(progress) if power == 0 else (1 - progress) ** power


def first_of(stages: list, done: float, default: int) -> int:
    """`stages`: [share of the training until which it holds, value], in order; then `default`."""
    return next((value for until, value in stages if done < until), default)
