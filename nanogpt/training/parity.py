"""Whether an accelerator computes this training's loss and gradients as the CPU does, asked at each start.

Kernels that are silently wrong are known of MPS alone, mostly in the backward pass and at some shapes only (pytorch
#153957, #177116, #197636): the small checks of nanogpt.study cannot meet them all. So the present weights see a pass
of the training's own shape here. All its targets but the first few windows' are taken out, so that the CPU, which has
to compute these alone, is done in seconds. A pass of another shape would be worse than none: the gradients that follow
it may be wrong for that reason (#177116).

The targets that stay are other tokens than the text's. Weights that know a text by heart have next to no gradient on
it, and what there is is rounding: bfloat16 was off by five times its norm, and by 5 % of it with other targets.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nanogpt import device as devices
from nanogpt.data.data_loader import IGNORED
from nanogpt.faults import DeviceError
from nanogpt.model.gpt import GPT

MOST_TOKENS = 256  # compared
MOST_OPERATIONS = 3e11  # of the CPU: 2.4 s of one core here; of 1.5e9 parameters 32 tokens are compared
# Largest deviation of the loss and of a gradient. Rounding alone gave at most 6.4e-8 and 3.1e-6 in float32, 1.1e-5 and
# 6.1e-3 in float16, whose significand TF32 has, 3.9e-4 and 4.9e-2 in bfloat16: both presets, 2 and 12 layers, from
# fresh weights to text known by heart, on a CPU. What is known of wrong kernels is wrong by the gradient's own size.
LIMITS = {"float32": (1e-4, 1e-3), "tf32": (1e-3, 3e-2), "float16": (1e-3, 3e-2), "bfloat16": (1e-2, 0.25)}
NOISE = 0.02  # deviation, GPT-2's at the start
LEAST_SHARE = 0.01  # of the whole gradient's norm: a parameter with less of it than that has little but rounding


@dataclass(frozen=True)
class Parity:
    """How far a device is from the CPU, each relative; `parameter` is the one whose gradient differs most."""

    loss: float
    gradient: float
    parameter: str
    tokens: int
    seconds: float

    def within(self, limits: tuple[float, float]) -> bool:
        """False for NaN as well."""
        return self.loss <= limits[0] and self.gradient <= limits[1]


def require_parity(
    model: GPT, tokens: Tensor, targets: Tensor, precision: str, loss_scale: float = 1.0
) -> Parity | None:
    """Compare a pass of tokens, targets (B, T) int64 on the model's device in `precision` with the CPU in float32.

    Nothing of the training changes: no gradient is left, no random number drawn (dropout is off). None where the CPU
    itself finds no finite loss: that is the weights' fault. Raises DeviceError, and what the device raises.
    """
    found = compare(model, tokens, targets, precision, loss_scale)
    if found is None or found.within(limits := limits_of(tokens.device.type, precision)):
        return found
    raise DeviceError(
        f"{tokens.device.type} in {precision} does not compute what the CPU does: loss off by {found.loss:.1e} (limit "
        f"{limits[0]:g}), gradient of {found.parameter} by {found.gradient:.1e} (limit {limits[1]:g})"
    )


def limits_of(device: str, precision: str) -> tuple[float, float]:
    """Of loss and gradient. CUDA's float32 products are TF32 where nanogpt.device.configure() allows it."""
    reduced = torch.get_float32_matmul_precision() != "highest"
    return LIMITS["tf32" if device == "cuda" and precision == "float32" and reduced else precision]


def compare(model: GPT, tokens: Tensor, targets: Tensor, precision: str, loss_scale: float = 1.0) -> Parity | None:
    """The deviations; None where the CPU's own loss is not finite."""
    began = time.monotonic()
    rows, length = compared_part(model, *tokens.shape)
    vocab_size = model.head.weight.size(0)
    part = (targets[:rows, :length] + vocab_size // 2) % vocab_size
    alone = torch.full_like(targets, IGNORED)
    alone[:rows, :length] = part
    weights = _weights_that_matter(model)
    on_the_cpu = {name: tensor.detach().cpu() for name, tensor in weights.items()}
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    with _without_dropout(model):
        expected_loss, expected = _loss_and_gradients(
            model, on_the_cpu, names, tokens[:rows, :length].cpu(), part.cpu(), "float32", 1.0
        )
        if not math.isfinite(expected_loss):
            return None
        loss, gradients = _loss_and_gradients(model, weights, names, tokens, alone, precision, loss_scale)
    largest, parameter = _largest_deviation(names, gradients, expected)
    off, seconds = abs(loss - expected_loss) / (expected_loss or 1.0), round(time.monotonic() - began, 3)
    return Parity(off, largest, parameter, rows * length, seconds)


def compared_part(model: GPT, B: int, T: int) -> tuple[int, int]:
    """Windows and tokens of each, of a pass (B, T), that the CPU computes."""
    tokens = min(MOST_TOKENS, max(1, int(MOST_OPERATIONS / model.flops_per_token())))
    return max(1, min(B, tokens // T)), min(T, tokens)


def _weights_that_matter(model: GPT) -> dict[str, Tensor]:
    """Parameters and buffers where they are; with noise where all is zero, because nothing passes through zeros.

    So begin the output projections of most models, and a backward pass of zeros would be right whatever computes it.
    """
    tensors = {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if not tensor.any():
            tensors[name] = (NOISE * torch.randn(tensor.shape, generator=generator)).to(tensor.device)
    return tensors


def _loss_and_gradients(
    model: GPT,
    tensors: dict[str, Tensor],
    names: list[str],
    tokens: Tensor,
    targets: Tensor,
    precision: str,
    loss_scale: float,
) -> tuple[float, list[Tensor]]:
    """Of `model` with other `tensors`, where these are; the gradients on the CPU, without the scale.

    float16's are computed again at a lower scale while they leave its range, as in training.
    """
    trained = [tensors[name].requires_grad_() for name in names]
    stand_ins = {f"model.{name}": tensor for name, tensor in tensors.items()}
    both_passes = _BothPasses(model, precision)
    while True:
        loss, gradients = torch.func.functional_call(both_passes, stand_ins, (tokens, targets, trained, loss_scale))
        if loss_scale == 1.0 or not math.isfinite(loss) or all(gradient.isfinite().all() for gradient in gradients):
            return loss, [gradient.cpu() / loss_scale for gradient in gradients]
        loss_scale = max(1.0, loss_scale / 16)


class _BothPasses(nn.Module):
    """Forward and backward pass as one call: blocks that are computed again must see the stand-ins, too."""

    def __init__(self, model: GPT, precision: str):
        super().__init__()
        self.model, self.precision = model, precision

    def forward(
        self, tokens: Tensor, targets: Tensor, trained: list[Tensor], loss_scale: float
    ) -> tuple[float, tuple[Tensor, ...]]:
        with devices.autocast(tokens.device.type, self.precision):
            _, loss = self.model(tokens, targets)
        return loss.item(), torch.autograd.grad(loss * loss_scale, trained)


def _largest_deviation(names: list[str], found: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[float, str]:
    """Of the gradient that differs most, relative to its norm, and its name. NaN differs most of all."""
    norms = [float(gradient.norm()) for gradient in expected]
    least = LEAST_SHARE * math.hypot(*norms)
    deviations = torch.tensor(
        [
            float((mine - theirs).norm()) / (max(norm, least) or 1.0)
            for mine, theirs, norm in zip(found, expected, norms, strict=True)
        ]
    )
    worst = int(deviations.argmax())  # NaN, where there is one
    return float(deviations[worst]), names[worst]


@contextmanager
def _without_dropout(model: GPT) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
