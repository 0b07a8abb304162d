"""The checks of a model's parts as experiments: what is changed, what should happen, what did.

Each check is made twice, on the part as it is and on the part broken on purpose: a check that passes on both would
prove nothing. To break a part, a method of its class is replaced for the time of the experiment, so nothing else in the
process should compute meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.model.attention import Attention, KVCache
from nanogpt.model.gpt import GPT
from nanogpt.model.norm import LayerNorm, RMSNorm
from nanogpt.model.positional import Rotation
from nanogpt.results.machine import ComponentCheck
from nanogpt.results.study import Experiment
from nanogpt.study import component_checks as checks
from nanogpt.training.update.optimizer import Optimizer
from nanogpt.weights import checkpoint

Breaking = Callable[[str], AbstractContextManager[object]]  # on the device


@dataclass(frozen=True)
class Plan:
    """An experiment that is to be made."""

    title: str
    changed: str
    expected: str
    check: Callable[[str, int], list[ComponentCheck]]
    broken: str
    break_part: Breaking


def run_experiments(device: str, seed: int) -> Iterator[Experiment]:
    """Each experiment on `device`, as it ends. Raises what the device raises when it cannot compute at all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in component_checks.run_checks
    try:
        for plan in PLANS:
            found = plan.check(device, seed)
            with plan.break_part(device):
                when_broken = plan.check(device, seed)
            yield Experiment(plan.title, plan.changed, plan.expected, found, plan.broken, when_broken)
    finally:
        torch.set_num_threads(threads)


# ---- how each part is broken


def _replaced(owner: object, name: str, by: object) -> Breaking:
    return lambda device: patch.object(owner, name, by)


@contextmanager
def _without_norms(device: str) -> Iterator[None]:
    def unchanged(self: object, x: Tensor) -> Tensor:
        return x

    with patch.object(LayerNorm, "forward", unchanged), patch.object(RMSNorm, "forward", unchanged):
        yield


def _wrong_kernel(device: str) -> AbstractContextManager[object]:
    """Wrong in float32 on the device; what the CPU compares with, in float64 or elsewhere, stays right."""

    def attend(self: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = ATTEND(self, q, k, v)
        return y * 1.5 if y.device.type == device and y.dtype == torch.float32 else y

    return patch.object(Attention, "attend", attend)


def _attends_to_all(self: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, self.share(k), self.share(v))


def _attends_too_softly(self: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, self.share(k), self.share(v), is_causal=True, scale=1 / self.head_dim)


def _only_scaled(x: Tensor, rotation: Rotation) -> Tensor:
    """The cosine's half of the rotation."""
    return x * rotation[0]


def _cut_off(self: Attention, x: Tensor, rotation: Rotation | None, cache: KVCache | None = None) -> Tensor:
    return ATTENTION(self, x, rotation, cache).detach()


def _untied(self: GPT, generator: torch.Generator) -> None:
    INITIALISE(self, generator)
    self.head.weight = torch.nn.Parameter(self.head.weight.detach().clone())


def _with_loud_head(self: GPT, generator: torch.Generator) -> None:
    INITIALISE(self, generator)
    with torch.no_grad():
        self.head.weight.normal_(generator=generator)


def _forgetting_first(self: KVCache, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    keys, values = APPEND(self, layer, k, v)
    if self.length:
        keys[:, :, 0] = 0
    return keys, values


def _rounded(model: GPT, weights: dict[str, Tensor], where: str) -> None:
    PUT_WEIGHTS(model, {name: weight.bfloat16() for name, weight in weights.items()}, where)


def _climbing(self: Optimizer, factor: float) -> None:
    STEP(self, -0.1 * factor)


ATTENTION, ATTEND, INITIALISE, APPEND = Attention.forward, Attention.attend, GPT.initialise, KVCache.append
PUT_WEIGHTS, STEP = checkpoint.put_weights, Optimizer.step

PLANS = (
    Plan(
        "causal mask",
        "every token in the second half of the text is replaced by another one",
        "no logit of the first half moves: a position sees itself and what came before it",
        checks.causal_mask,
        "attention without its mask",
        _replaced(Attention, "attend", _attends_to_all),
    ),
    Plan(
        "attention",
        "attention is computed a second time as its formula reads: head by head, position by position, in float64",
        "both give the same, with QK-norm, rotation and key heads that several query heads share",
        checks.attention_reference,
        "scores divided by the width of a head instead of its square root",
        _replaced(Attention, "attend", _attends_too_softly),
    ),
    Plan(
        "norms",
        "vectors with mean 5 and deviation 3 go through LayerNorm and RMSNorm",
        "each leaves LayerNorm with mean 0 and variance 1, RMSNorm with mean square 1",
        checks.norm_statistics,
        "norms that pass on what they get",
        _without_norms,
    ),
    Plan(
        "rotary positions",
        "a query and a key are moved 37 positions on, together",
        "their product stays the same, and it differs between distances",
        checks.rotary_relativity,
        "a rotation without its sine",
        _replaced(checks, "rotate", _only_scaled),
    ),
    Plan(
        "gradients",
        "one backward pass through both presets",
        "every parameter receives a finite gradient that is not zero",
        checks.gradients_reach,
        "attention cut off from the backward pass",
        _replaced(Attention, "forward", _cut_off),
    ),
    Plan(
        "tied weights",
        "one step of gradient descent on a model whose head is its embedding",
        "head and embedding are still one matrix, and it moved",
        checks.weight_tying,
        "a head with a copy of the embedding",
        _replaced(GPT, "initialise", _untied),
    ),
    Plan(
        "first loss",
        "nothing: a model that has learned nothing predicts random tokens",
        "it pays ln 65 = 4.174 nats a token, the price of knowing nothing about 65 tokens",
        checks.initial_loss,
        "a head drawn with deviation 1, which is sure of what it cannot know",
        _replaced(GPT, "initialise", _with_loud_head),
    ),
    Plan(
        "decoding with a cache",
        "a text is read in pieces and token by token, its keys and values kept; prompts of unequal length go together",
        "the logits are those of the whole text read at once",
        checks.cached_decoding,
        "a cache that forgets the first position",
        _replaced(KVCache, "append", _forgetting_first),
    ),
    Plan(
        "checkpoint",
        "a model is written to the disk and read into another one",
        "all its numbers are the same to the bit",
        checks.checkpoint_round_trip,
        "weights rounded to bfloat16 on the way",
        _replaced(checkpoint, "put_weights", _rounded),
    ),
    Plan(
        "learning",
        "60 steps of AdamW, and of Muon, on a single batch",
        "the loss falls below 1 nat: a model that cannot learn one batch by heart learns nothing",
        checks.overfitting,
        "an optimizer that climbs",
        _replaced(Optimizer, "step", _climbing),
    ),
    Plan(
        "device",
        "loss and gradients are computed twice: on the device, and exactly (the CPU; for the CPU itself in float64)",
        "both agree to rounding",
        checks.device_parity,
        "attention that is half as large again on the device",
        _wrong_kernel,
    ),
)


def in_words(experiment: Experiment) -> str:
    """The experiment as a person reads it: five lines, and one more for each further figure."""
    lines = [
        experiment.title,
        f"  changed    {experiment.changed}",
        f"  expected   {experiment.expected}",
    ]
    for check in experiment.found:
        verdict = "as expected" if check.passed else "NOT as expected"
        lines.append(f"  found      {verdict}: {_figure(check)} (at most {check.limit:g})")
    noticed = [check for check in experiment.when_broken if not check.passed]
    figures = ", ".join(map(_figure, noticed or experiment.when_broken))
    verdict = "is noticed" if noticed else "is NOT noticed"
    lines.append(f"  broken     {experiment.broken}: {verdict}, {figures}")
    return "\n".join(lines)


def _figure(check: ComponentCheck) -> str:
    return f"{check.unit}: {check.measured:.3g}"
