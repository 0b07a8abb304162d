"""One training step, from its data to the updated weights: take() and forward_backward() are the whole of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpt import device as devices
from nanogpt.config import Config
from nanogpt.model.cross_entropy import Groups
from nanogpt.training.device_check import DeviceCheck
from nanogpt.training.micro_batches import MicroBatches
from nanogpt.training.numerics import Numerics
from nanogpt.training.record.recorder import Recorder
from nanogpt.training.retries import LossSum, Retries
from nanogpt.training.state import TrainingState
from nanogpt.training.update.growth import StepData
from nanogpt.training.update.schedule import factor_at


@dataclass(frozen=True)
class StepResult:
    """What a step came to. `skipped`: why its update was not taken, or ""."""

    loss: float  # nats a token
    gradient_norm: float  # before clipping
    learning_rate: float
    sequences: int
    skipped: str
    by_source: dict[str, float]  # of a mixture: the loss of each text that the step saw


class SourceLosses:
    """The mean loss of each text of a mixture over the passes of a step."""

    def __init__(self, names: tuple[str, ...], device: str):
        self.names, self.device = names, device
        self.forget()

    def forget(self) -> None:
        """Before the first pass of a step."""
        self.sums, self.tokens = torch.zeros(2, len(self.names), device=self.device)

    def groups(self, sources: Tensor | None) -> Groups | None:
        """What the windows of a pass are of; None without a mixture."""
        return None if sources is None else Groups(sources, len(self.names))

    def add(self, sums: Tensor, groups: Groups, window: int) -> Tensor:
        """Take in a pass's sums of losses (texts,); their sum."""
        self.sums += sums.detach()
        self.tokens += groups.sums(self.tokens.new_full(groups.of_row.shape, window))
        return sums.sum()

    def means(self) -> dict[str, float]:
        """By name, of the texts that were seen."""
        if not self.names:
            return {}
        means = (self.sums / self.tokens).tolist()
        return {name: loss for name, loss in zip(self.names, means, strict=True) if loss == loss}


class Stepper:
    """Takes the steps of one training. `interrupt` may raise StepDropped between two passes."""

    def __init__(
        self,
        config: Config,
        numerics: Numerics,
        state: TrainingState,
        micro_batches: MicroBatches,
        interrupt: Callable[[], None],
        record: Recorder,
    ):
        self.config, self.numerics, self.state, self.micro_batches = config, numerics, state, micro_batches
        self.interrupt, self.record = interrupt, record
        self.by_source = SourceLosses(micro_batches.feed.samples.names, numerics.device)
        self.loss_sum = LossSum(state.model, config.device.compile, record)
        has_dropout = config.model.dropout > 0
        self.retries = Retries(micro_batches, state.optimizer, self.loss_sum, has_dropout, record)
        self.device_check = DeviceCheck(state, numerics, micro_batches, self.retries, record)

    def take(self, factor: float | None = None, skip_spikes: bool = True) -> StepResult:
        """The next step, with `factor` of each peak learning rate, by default the schedule's.

        A step that is skipped consumes its data like any other. Raises StepDropped, OutOfMemory and DeviceError, with
        everything as before the step.
        """
        state, progress, training = self.state, self.state.progress, self.config.training
        if factor is None:
            factor = factor_at(progress.step, training, progress.cool_down) * progress.learning_rate_scale
        data = progress.next_step(self.config)  # `batch` samples of block_size tokens, in windows
        loss_scale = self.loss_scale
        self.device_check.check(data, loss_scale)
        loss, gradient_norm = self.retries.complete(data, lambda: self.forward_backward(data, loss_scale))
        skipped = self._reason_to_skip(loss, gradient_norm, skip_spikes)
        if not skipped:
            clip = training.grad_clip
            clipping = min(1.0, clip / gradient_norm) if clip and gradient_norm else 1.0
            if clipping / loss_scale != 1.0:
                state.optimizer.scale_gradients(clipping / loss_scale)
            state.optimizer.step(factor)
            if state.average:
                state.average.update()
        progress.step += 1
        progress.cursor += data.batch
        rate = training.learning_rate * factor
        return StepResult(loss, gradient_norm, rate, data.batch, skipped, self.by_source.means())

    def check_device(self) -> None:
        """Compare an accelerator with the CPU on the next step's data. Raises DeviceError, OutOfMemory."""
        self.device_check.check(self.state.progress.next_step(self.config), self.loss_scale)

    def forward_backward(self, data: StepData, loss_scale: float) -> tuple[float, float]:
        """Loss (nats a token) and gradient norm; the gradients in place are `loss_scale` times their value.

        One transfer of two numbers a step: they are judged before the weights change. On an accelerator the wait ends
        with the backward pass; the next step's first micro-batch is prepared before it.
        """
        device, optimizer = self.numerics.device, self.state.optimizer
        optimizer.forget_gradients()
        total = torch.zeros((), device=device)
        self.by_source.forget()
        for number, (tokens, targets, sources) in enumerate(self.micro_batches.of(data)):
            if number:
                self.interrupt()
            groups = self.by_source.groups(sources)
            with devices.autocast(device, self.numerics.precision):
                summed, _ = self.loss_sum(tokens, targets, groups)  # () or (texts,), float32
            if groups is not None:
                summed = self.by_source.add(summed, groups, data.window)
            loss = summed / (data.batch * self.config.model.block_size)  # the micro-batch's part of the mean
            torch.autograd.backward(loss * loss_scale)  # adds to the gradients of the micro-batches before
            total += loss.detach()
            self.record.beat("training")
        loss, gradient_norm = torch.stack([total, optimizer.gradient_norm() / loss_scale]).tolist()
        return loss, gradient_norm

    @property
    def loss_scale(self) -> float:
        """What the next step's loss is multiplied by, so that float16's gradients stay in range."""
        return self.state.progress.loss_scale.factor if self.numerics.precision == "float16" else 1.0

    def _reason_to_skip(self, loss: float, gradient_norm: float, skip_spikes: bool) -> str:
        """An overflow of float16's range is no sign of bad weights."""
        progress, is_finite = self.state.progress, math.isfinite(loss) and math.isfinite(gradient_norm)
        in_float16 = self.numerics.precision == "float16"
        if in_float16 and math.isfinite(loss) and progress.loss_scale.overflows(gradient_norm):
            return f"overflow, loss scale now {self.loss_scale:g}"
        return progress.stability.judge(loss, gradient_norm) if skip_spikes or not is_finite else ""
