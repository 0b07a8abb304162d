"""The gradient of one step: its samples in pieces that fit into memory, and their gradients added up."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from nanogpt import device as devices
from nanogpt.data.data_loader import Samples
from nanogpt.model.gpt import GPT
from nanogpt.training.checkpoint import random_state, restore_random_state
from nanogpt.training.computing import Computing
from nanogpt.training.lifeline import StopRequest, StopRequested
from nanogpt.training.optimizer import Optimizer


class Gradients:
    """Forward and backward passes of `model`, eager or compiled, on `samples`."""

    def __init__(
        self, model: GPT, optimizer: Optimizer, samples: Samples, computing: Computing, micro_batch: int,
        stop: StopRequest, beat: Callable[[str], None], event: Callable[[str, str], None],
    ):  # fmt: skip
        self.model, self.optimizer, self.samples, self.computing = model, optimizer, samples, computing
        self.micro_batch, self.stop, self.beat, self.event = micro_batch, stop, beat, event
        self.device = computing.device
        self.loss_sum = model.loss_sum

    def compute(self, cursor: int, batch: int) -> tuple[float, float]:
        """Loss (nats a token) and gradient norm of samples cursor .. cursor + batch - 1, gradients in place.

        One transfer of two numbers per step: the judgement needs them before the weights change. On an accelerator
        it costs the launch of the update, far less than the backward pass that it waits for. Raises StopRequested
        between two pieces, with the generators as before: the step is repeated after resuming, with the same dropout.
        """
        self.optimizer.forget_gradients()
        before = random_state(self.device) if self.micro_batch < batch else None
        total = torch.zeros((), device=self.device)
        for first, (tokens, targets) in self.pieces(cursor, batch):  # (micro_batch, block_size) each
            if first and self.stop.requested:
                restore_random_state(before, self.device)
                raise StopRequested
            with devices.autocast(self.device, self.computing.precision):
                summed, _ = self.loss_sum(tokens, targets)
            loss = summed / (batch * self.samples.block_size)
            loss.backward()
            total += loss.detach()
            self.beat("training")
        loss, gradient_norm = torch.stack([total, self.optimizer.gradient_norm()]).tolist()
        return loss, gradient_norm

    def pieces(self, cursor: int, batch: int) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        """The step's samples by the micro-batch: (offset in the step, (tokens, targets))."""
        for first in range(0, batch, self.micro_batch):
            pair = self.samples.batch(cursor + first, min(self.micro_batch, batch - first))
            if self.device == "cuda":  # pinned memory is copied while the device computes
                pair = tuple(part.pin_memory().to("cuda", non_blocking=True) for part in pair)
            elif self.device != "cpu":
                pair = tuple(part.to(self.device) for part in pair)
            yield first, pair

    def compile(self) -> None:
        """Take the loss through torch.compile, or leave it as it is where any part of the compiler fails."""
        self.beat("compiling")
        before = random_state(self.device)
        shape = (self.micro_batch, self.samples.block_size)
        tokens = torch.zeros(shape, dtype=torch.long, device=self.device)
        try:
            loss_sum = torch.compile(self.model.loss_sum)
            with devices.autocast(self.device, self.computing.precision):
                loss_sum(tokens, tokens)[0].backward()
            self.loss_sum = loss_sum
        except Exception as error:
            self.event("not compiled", f"eager instead: {type(error).__name__}: {error}"[:500])
        restore_random_state(before, self.device)
