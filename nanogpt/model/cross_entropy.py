"""Summed cross entropy, for CPUs with its gradient in the logits' place."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from nanogpt.model.saved import Saved

IGNORED = -1  # the target of positions that do not count
ELEMENTS_AT_ONCE = 2**20  # 4 MiB in float32: a few passes over rows that the cache still has


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """logits (N, vocab_size), targets (N) -> the sum in nats over targets other than -1, in float32 at least.

    The caller gives `logits` up: on a CPU, while training, they are overwritten.
    """
    if logits.device.type == "cpu" and logits.requires_grad and not torch.compiler.is_compiling():
        total: Tensor = _InPlace.apply(logits, targets)  # type: ignore[no-untyped-call]
        return total
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


class _InPlace(torch.autograd.Function):
    """The gradient, softmax - one_hot(target), overwrites the logits as soon as the loss is known.

    512 x 50,257 in bfloat16 take 37 ms instead of 89 (one core), and 300 MB less: no float32 copy of all is made.
    """

    @staticmethod
    def forward(ctx: Saved, logits: Tensor, targets: Tensor) -> Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        rows_at_once = max(1, ELEMENTS_AT_ONCE // logits.size(1))
        total = torch.zeros((), dtype=dtype)
        for rows, target in zip(logits.split(rows_at_once), targets.split(rows_at_once), strict=True):
            counts = (target != IGNORED)[:, None]  # (rows, 1)
            target = target.clamp(min=0)[:, None]
            log_probabilities = torch.log_softmax(rows, -1, dtype=dtype)  # (rows, vocab_size)
            total -= (log_probabilities.gather(1, target) * counts).sum()
            gradient = log_probabilities.exp_()
            gradient.scatter_add_(1, target, gradient.new_full(target.shape, -1.0))
            rows.copy_(gradient.mul_(counts))
        ctx.save_for_backward(logits)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Saved, grad_total: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_total, None
