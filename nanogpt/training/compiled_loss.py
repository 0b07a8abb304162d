"""The loss of a model through torch.compile, and in eager mode once any part of the compiler has failed."""

from __future__ import annotations

import torch
from torch import Tensor

from nanogpt.faults import causes
from nanogpt.model.gpt import GPT
from nanogpt.training.record.recorder import Recorder

MOST_SHAPES = 64  # compiled; beyond torch's 8 it would go on in eager mode without a word


class LossSum:
    """GPT.loss_sum of `model`: tokens, targets (B, T) -> summed cross entropy in nats, number of targets."""

    def __init__(self, model: GPT, compiled: bool, record: Recorder):
        """Shapes are few and each is worth a graph of its own: those of the curriculum and of a batch's remainder."""
        self._eager, self._record = model.loss_sum, record
        self.function, self.is_compiled = model.loss_sum, compiled
        if compiled:
            record.beat("compiling")
            torch._dynamo.config.recompile_limit = MOST_SHAPES
            self.function = torch.compile(model.loss_sum, dynamic=False)

    def __call__(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self.function(tokens, targets)

    def leave_compiler(self, evidence: str) -> None:
        """From now on in eager mode."""
        self._record.event("not compiled", f"eager instead: {evidence}")
        self.function, self.is_compiled = self._eager, False


def is_of_compiler(error: BaseException) -> bool:
    """Whether torch's compiler raised it or its cause. No step needs its cache, which a full disk keeps out."""
    return any(type(cause).__module__.startswith(("torch._inductor", "torch._dynamo")) for cause in causes(error))
