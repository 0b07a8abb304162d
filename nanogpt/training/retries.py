"""A step that fails is computed again: in smaller micro-batches without memory, in eager mode without the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from nanogpt import device as devices
from nanogpt.faults import OUT_OF_MEMORY, UNKNOWN, causes, classify
from nanogpt.fit import halved
from nanogpt.model.cross_entropy import Groups
from nanogpt.model.gpt import GPT
from nanogpt.model.recomputing import generator_of
from nanogpt.training.compiling import compiled_loss_sum
from nanogpt.training.micro_batches import MicroBatches
from nanogpt.training.record.recorder import Recorder
from nanogpt.training.stopping import StepDropped
from nanogpt.training.update.growth import StepData
from nanogpt.training.update.optimizer import Optimizer

Result = TypeVar("Result")


class LossSum:
    """GPT.loss_sum of `model`: what a pass sees -> summed cross entropy in nats, number of targets."""

    def __init__(self, model: GPT, compiled: bool, record: Recorder):
        self._eager, self._record = model.loss_sum, record
        self.function, self.is_compiled = model.loss_sum, compiled
        if compiled:
            record.beat("compiling")
            self.function = compiled_loss_sum(model)

    def __call__(self, tokens: Tensor, targets: Tensor, by: Groups | None = None) -> tuple[Tensor, Tensor]:
        return self.function(tokens, targets) if by is None else self.function(tokens, targets, by)

    def leave_compiler(self, evidence: str) -> None:
        """From now on in eager mode."""
        self._record.event("not compiled", f"eager instead: {evidence}")
        self.function, self.is_compiled = self._eager, False


def is_of_compiler(error: BaseException) -> bool:
    """Whether torch's compiler raised it or its cause. No step needs its cache, which a full disk keeps out."""
    return any(type(cause).__module__.startswith(("torch._inductor", "torch._dynamo")) for cause in causes(error))


class OutOfMemory(MemoryError):
    """A pass has no memory and this process has no smaller one to try; everything is as before the step."""


class Retries:
    """Completes a step in this process where it can.

    Where there is no memory for a pass, the micro-batch halves and stays so: the same samples in the same order, and
    the same loss but for rounding. Dropout draws its masks pass by pass, so the halves see other masks, no better or
    worse. Every repetition begins with dropout's generator as it was.
    """

    def __init__(
        self, micro_batches: MicroBatches, optimizer: Optimizer, loss_sum: LossSum, has_dropout: bool, record: Recorder
    ):
        self.micro_batches, self.optimizer, self.loss_sum, self.record = micro_batches, optimizer, loss_sum, record
        self.has_dropout, self.device = has_dropout, micro_batches.feed.device

    def complete(self, data: StepData, work: Callable[[], Result], uses_compiler: bool = True) -> Result:
        """The result of `work`, which computes the passes of `data`.

        Raises StepDropped and OutOfMemory, both without gradients and with the generator as before.
        """
        before = generator_of(self.device).get_rng_state() if self.has_dropout else None
        while True:
            try:
                return work()
            except StepDropped:
                self._forget_step(before)
                raise
            except Exception as error:
                remedy = self._remedy_for(error, uses_compiler and self.loss_sum.is_compiled)
                if remedy is None:
                    raise
                evidence = f"{type(error).__name__}: {error}"[:500]
            # Here, where the error is gone: its traceback has kept every tensor of the step alive.
            self._forget_step(before)
            remedy(data, evidence)

    def _remedy_for(self, error: Exception, compiled: bool) -> Callable[[StepData, str], None] | None:
        """A symptom of the device or the disk is not the compiler's, unless the error says so."""
        symptom = classify(error)
        if symptom == OUT_OF_MEMORY:
            return self._halve
        return self._leave_compiler if compiled and (symptom == UNKNOWN or is_of_compiler(error)) else None

    def _forget_step(self, generator: Tensor | None) -> None:
        self.optimizer.forget_gradients()
        self.micro_batches.feed.forget()
        if generator is not None:
            generator_of(self.device).set_rng_state(generator)

    def _halve(self, data: StepData, evidence: str) -> None:
        """On MPS in another process: there gradients are wrong after a backward pass of another size (#177116)."""
        devices.give_back_memory(self.device)
        at_once = self.micro_batches.windows_at_once(data)
        half = halved(at_once)
        if half is None or self.device == "mps":
            raise OutOfMemory(f"micro-batch {at_once}: {evidence}")
        self.micro_batches.size = half
        self.record.event(OUT_OF_MEMORY, f"micro-batch {at_once} -> {half}: {evidence}", micro_batch=half)

    def _leave_compiler(self, data: StepData, evidence: str) -> None:
        self.loss_sum.leave_compiler(evidence)
