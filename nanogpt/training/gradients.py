"""The gradient of one step: its samples in pieces that fit into memory, and their gradients added up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpt import device as devices
from nanogpt.data.data_loader import Samples
from nanogpt.faults import OUT_OF_MEMORY, classify
from nanogpt.model.gpt import GPT
from nanogpt.training.checkpoint import random_state, restore_random_state
from nanogpt.training.computing import Computing
from nanogpt.training.lifeline import StopRequest, StopRequested
from nanogpt.training.optimizer import Optimizer

Piece = tuple[int, int]  # first sample, number of samples
MOST_SHAPES = 64  # compiled; beyond torch's 8 it would go on in eager mode without a word


@dataclass(frozen=True)
class StepData:
    """What one step sees: `batch` samples from `cursor` on, cut into windows of `window` tokens."""

    cursor: int
    batch: int
    window: int

    def pieces(self, micro_batch: int) -> list[Piece]:
        """The step by the micro-batch."""
        ends = self.cursor + self.batch
        return [(first, min(micro_batch, ends - first)) for first in range(self.cursor, ends, micro_batch)]


class Gradients:
    """Forward and backward passes of `model` on `samples`, eager or compiled."""

    def __init__(
        self, model: GPT, optimizer: Optimizer, samples: Samples, computing: Computing, micro_batch: int,
        stop: StopRequest, beat: Callable[[str], None], event: Callable[[str, str], None],
    ):  # fmt: skip
        self.model, self.optimizer, self.computing = model, optimizer, computing
        self.micro_batch, self.stop, self.beat, self.event = micro_batch, stop, beat, event
        self.feed = Feed(samples, computing.device)
        self.loss_sum, self.compiled = model.loss_sum, False

    def compile(self) -> None:
        """Take the loss through torch.compile, until any part of the compiler fails.

        Shapes are few and each is worth a graph of its own: those of the curriculum and of a batch's remainder.
        """
        self.beat("compiling")
        torch._dynamo.config.recompile_limit = MOST_SHAPES
        self.loss_sum, self.compiled = torch.compile(self.model.loss_sum, dynamic=False), True

    def compute(self, data: StepData, loss_scale: float = 1.0) -> tuple[float, float]:
        """Loss (nats a token) and gradient norm of a step; the gradients in place are `loss_scale` times their value.

        Raises StopRequested between two pieces, with the generators as before: the step is repeated after resuming,
        with the same dropout. A compiler that fails, now or at a shape that it meets later, is left for eager
        execution, and the step is repeated.
        """
        may_be_repeated = self.compiled or self.micro_batch < data.batch
        before = random_state(self.computing.device) if may_be_repeated else None
        try:
            return self._add_up(data, loss_scale)
        except StopRequested:
            restore_random_state(before, self.computing.device)
            raise
        except Exception as error:
            if not self.compiled or classify(error) == OUT_OF_MEMORY:
                raise
            self.event("not compiled", f"eager instead: {type(error).__name__}: {error}"[:500])
            self.loss_sum, self.compiled = self.model.loss_sum, False
        restore_random_state(before, self.computing.device)
        return self._add_up(data, loss_scale)

    def _add_up(self, data: StepData, loss_scale: float) -> tuple[float, float]:
        """One transfer of two numbers per step: the judgement needs them before the weights change.

        On an accelerator the wait ends with the backward pass; the next step's first piece is prepared before it.
        """
        self.optimizer.forget_gradients()
        total = torch.zeros((), device=self.computing.device)
        pieces = data.pieces(self.micro_batch)
        following = [*pieces[1:], (data.cursor + data.batch, pieces[0][1])]
        for number, (piece, next_piece) in enumerate(zip(pieces, following, strict=True)):
            if number and self.stop.requested:
                raise StopRequested
            tokens, targets = (part.view(-1, data.window) for part in self.feed.take(piece))
            with devices.autocast(self.computing.device, self.computing.precision):
                summed, _ = self.loss_sum(tokens, targets)  # of (micro_batch · block_size / window, window)
            loss = summed / (data.batch * self.feed.samples.block_size)
            (loss * loss_scale).backward()
            total += loss.detach()
            self.feed.prepare(next_piece)
            self.beat("training")
        loss, gradient_norm = torch.stack([total, self.optimizer.gradient_norm() / loss_scale]).tolist()
        return loss, gradient_norm


class Feed:
    """Samples on the device. An accelerator computes while the next piece is gathered, pinned and sent to it."""

    def __init__(self, samples: Samples, device: str):
        self.samples, self.device = samples, device
        self._ready: dict[Piece, tuple[Tensor, ...]] = {}

    def take(self, piece: Piece) -> tuple[Tensor, ...]:
        """Inputs and targets, (number of samples, block_size) each."""
        return self._ready.pop(piece, None) or self._load(*piece)

    def prepare(self, piece: Piece) -> None:
        """Begin to load what is probably taken next; on the CPU that would only be done sooner, not faster."""
        self._ready = {} if self.device == "cpu" else {piece: self._load(*piece)}

    def _load(self, first: int, count: int) -> tuple[Tensor, ...]:
        pair = self.samples.batch(first, count)
        if self.device == "cuda":  # pinned memory is copied while the device computes
            return tuple(part.pin_memory().to("cuda", non_blocking=True) for part in pair)
        return tuple(part.to(self.device) for part in pair)
