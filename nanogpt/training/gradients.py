"""The gradient of one step: its samples in pieces that fit into memory, and their gradients added up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor

from nanogpt import device as devices
from nanogpt.data.data_loader import Samples
from nanogpt.faults import OUT_OF_MEMORY, UNKNOWN, causes, classify
from nanogpt.model.gpt import GPT
from nanogpt.training.compute import Computing
from nanogpt.training.stopping import StopRequest, StopRequested
from nanogpt.training.update.optimizer import Optimizer

Result = TypeVar("Result")
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


def is_of_compiler(error: BaseException) -> bool:
    """Whether torch's compiler raised it, or what it came of. No step needs its cache, which a full disk keeps out."""
    return any(type(cause).__module__.startswith(("torch._inductor", "torch._dynamo")) for cause in causes(error))


class OutOfMemory(MemoryError):
    """A pass has no memory, and there is no smaller one for this process to try; all is as before the step."""


class Gradients:
    """Forward and backward passes of `model` on `samples`, eager or compiled.

    A pass sees `micro_batch` windows of `context` tokens. Where there is no memory for that, the micro-batch halves,
    the step is computed again, and it stays so: the same samples in the same order, and the same loss but for
    rounding. Dropout draws its masks pass by pass, so that with it the halves see other masks, no better or worse.
    """

    def __init__(
        self, model: GPT, optimizer: Optimizer, samples: Samples, computing: Computing, micro_batch: int,
        stop: StopRequest, beat: Callable[[str], None], event: Callable[..., None], context: int | None = None,
    ):  # fmt: skip
        self.model, self.optimizer, self.computing = model, optimizer, computing
        self.micro_batch, self.stop, self.beat, self.event = micro_batch, stop, beat, event
        self.context = context or samples.block_size
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

        A step that cannot be completed is computed again: in halves where memory ran out, in eager mode where the
        compiler failed, now or at a shape that it meets later; always with the same dropout generator.
        Raises StopRequested between two passes and OutOfMemory, both with the generator as before.
        """
        return self.complete(data, lambda: self._add_up(data, loss_scale), self.compiled)

    def complete(self, data: StepData, compute: Callable[[], Result], compiled: bool = False) -> Result:
        """What `compute` makes of `data` in passes of the micro-batch; again with the remedies of compute(), where it
        uses what was `compiled`."""
        before = _of_dropout(self.computing.device).get_rng_state() if self.model.config.dropout else None
        while True:
            try:
                return compute()
            except StopRequested:
                self._forget_step(before)
                raise
            except Exception as error:
                remedy = self._remedy_for(error, compiled and self.compiled)
                if remedy is None:
                    raise
                evidence = f"{type(error).__name__}: {error}"[:500]
            # Here, where the error is gone: its traceback has kept every tensor of the step alive.
            self._forget_step(before)
            remedy(data, evidence)

    def _remedy_for(self, error: Exception, compiled: bool) -> Callable[[StepData, str], None] | None:
        """A fault with a symptom of its own, of the device or the disk, is not the compiler's, unless it says so."""
        symptom = classify(error)
        if symptom == OUT_OF_MEMORY:
            return self._halve
        return self._leave_compiler if compiled and (symptom == UNKNOWN or is_of_compiler(error)) else None

    def _forget_step(self, generator: Tensor | None) -> None:
        self.optimizer.forget_gradients()
        self.feed.forget()
        if generator is not None:
            _of_dropout(self.computing.device).set_rng_state(generator)

    def _halve(self, data: StepData, evidence: str) -> None:
        """On MPS in another process: there gradients are wrong after a backward pass of another size (#177116)."""
        devices.give_back_memory(self.computing.device)
        at_once = min(self.micro_batch, data.batch * self.feed.samples.block_size // self.context)
        if at_once == 1 or self.computing.device == "mps":
            raise OutOfMemory(f"micro-batch {at_once}: {evidence}")
        self.micro_batch = at_once // 2
        told = f"micro-batch {at_once} -> {self.micro_batch}: {evidence}"
        self.event(OUT_OF_MEMORY, told, micro_batch=self.micro_batch)

    def _leave_compiler(self, data: StepData, evidence: str) -> None:
        self.event("not compiled", f"eager instead: {evidence}")
        self.loss_sum, self.compiled = self.model.loss_sum, False

    def _add_up(self, data: StepData, loss_scale: float) -> tuple[float, float]:
        """One transfer of two numbers per step: the judgement needs them before the weights change.

        On an accelerator the wait ends with the backward pass; the next step's first piece is prepared before it.
        """
        self.optimizer.forget_gradients()
        total = torch.zeros((), device=self.computing.device)
        for number, (tokens, targets) in enumerate(self.passes(data)):
            if number and self.stop.requested:
                raise StopRequested
            with devices.autocast(self.computing.device, self.computing.precision):
                summed, _ = self.loss_sum(tokens, targets)
            loss = summed / (data.batch * self.feed.samples.block_size)
            (loss * loss_scale).backward()
            total += loss.detach()
            self.beat("training")
        loss, gradient_norm = torch.stack([total, self.optimizer.gradient_norm() / loss_scale]).tolist()
        return loss, gradient_norm

    def passes(self, data: StepData) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets, (windows, data.window) each, of one pass after another."""
        tokens_at_once = self.micro_batch * self.context
        pieces = data.pieces(max(1, tokens_at_once // self.feed.samples.block_size))
        following = [*pieces[1:], (data.cursor + data.batch, pieces[0][1])]
        for piece, next_piece in zip(pieces, following, strict=True):
            whole = (part.view(-1, data.window) for part in self.feed.take(piece))
            yield from zip(*(part.split(tokens_at_once // data.window) for part in whole), strict=True)
            self.feed.prepare(next_piece)  # while an accelerator computes the pass


def _of_dropout(device: str) -> ModuleType:
    """Where the generator is that dropout draws from: torch itself on a CPU."""
    return torch if device == "cpu" else getattr(torch, device)


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

    def forget(self) -> None:
        """Let go of what is prepared."""
        self._ready = {}

    def _load(self, first: int, count: int) -> tuple[Tensor, ...]:
        pair = self.samples.batch(first, count)
        if self.device == "cuda":  # pinned memory is copied while the device computes
            return tuple(part.pin_memory().to("cuda", non_blocking=True) for part in pair)
        return tuple(part.to(self.device) for part in pair)
