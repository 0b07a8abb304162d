"""The fused attention kernel against attention written out: the same numbers, in how much time."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt import device as devices
from nanogpt.config import Config
from nanogpt.results.ablations import KernelTimes
from nanogpt.study.surgery import written_out
from nanogpt.training import numerics as numerical

WINDOWS = (64, 256, 1024)  # tokens
TOKENS = 4096  # in all, in windows of each length
ROUNDS = 7  # each kernel in turn; the median counts, as other work on the machine disturbs a few
Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
fused: Kernel = partial(F.scaled_dot_product_attention, is_causal=True)


def compare_kernels(control: Config) -> list[KernelTimes]:
    """Both kernels on heads as wide and as many as the control's, in float32, window by window."""
    numerics, _ = numerical.choose(control.device, before={})
    return [_compare(control, window, numerics.device) for window in WINDOWS]


def _compare(control: Config, window: int, device: str) -> KernelTimes:
    shape = (TOKENS // window, control.model.n_head, window, control.model.head_width)
    generator = torch.Generator().manual_seed(control.training.seed)
    q, k, v = (torch.randn(shape, generator=generator).to(device).requires_grad_() for _ in range(3))
    pairs = zip(_attend(fused, q, k, v), _attend(written_out, q, k, v), strict=True)
    difference = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    seconds: dict[Kernel, list[float]] = {fused: [], written_out: []}
    for _ in range(ROUNDS):
        for kernel, taken in seconds.items():
            began = time.perf_counter()
            _attend(kernel, q, k, v)
            devices.synchronize(device)
            taken.append(time.perf_counter() - began)
    times = {kernel: 1000 * median(taken) for kernel, taken in seconds.items()}
    return KernelTimes(window, TOKENS, times[fused], times[written_out], difference)


def _attend(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """The output, and the gradients of q, k and v for the sum of its squares."""
    y = kernel(q, k, v)
    return (y.detach(), *torch.autograd.grad(y.square().sum(), (q, k, v)))
