"""One training step on this machine, part by part: what the profiler and the batch-size finder time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch

from nanogpt import device as devices
from nanogpt.config import Config
from nanogpt.data.data_loader import Samples
from nanogpt.data.shard_file import Tokens
from nanogpt.measure.sizes import vocabulary
from nanogpt.model.gpt import GPT
from nanogpt.model.lora import add_adapters
from nanogpt.training.compiling import compiled_loss_sum
from nanogpt.training.micro_batches import Feed
from nanogpt.training.numerics import TORCH, attention_path, choose_kernels, newton_schulz_precision
from nanogpt.training.update.averaging import WeightAverage
from nanogpt.training.update.growth import StepData
from nanogpt.training.update.loss_scale import FIRST
from nanogpt.training.update.optimizer import Optimizer

RANDOM_TOKENS = 2**16  # of a made-up text
SHARE_OF_THE_PEAK_RATE = 0.01  # the weights stay near where they began
Part = Callable[[str], AbstractContextManager[object]]


class RealStep:
    """Model, optimizer and samples of `config`, whose vocabulary is known, on `device` in `precision`.

    `tokens` (T,) are what is learned from, random ones by default. Forward, backward and update are the trainer's;
    nothing is judged, logged or saved. Raises what a device raises when it is out of memory.
    """

    def __init__(self, config: Config, device: str, precision: str, tokens: Tokens | None = None):
        self.config, self.device, self.precision = config, device, precision
        training = config.training
        torch.manual_seed(training.seed)
        self.model = GPT(config.model, seed=training.seed)
        if training.lora_rank:
            add_adapters(self.model, training.lora_rank, training.lora_alpha, training.seed)
        self.model.to(device).train()
        if choose_kernels(config.device, device, precision)[0] != TORCH:
            self.model.use_kernels()
        self.model.gradient_checkpointing = config.device.gradient_checkpointing
        self.loss_sum = compiled_loss_sum(self.model) if config.device.compile else self.model.loss_sum
        self.model.document_start = None if config.data.cross_documents else 0  # any token: the mask takes its time
        self.model.choose_attention(attention_path(config.device))
        newton_schulz = newton_schulz_precision(device, config.device)
        self.optimizer = Optimizer(self.model, training, getattr(torch, newton_schulz))
        trained = self.optimizer.parameters
        self.average = WeightAverage(trained, training.weight_average) if training.weight_average else None
        if tokens is None:
            tokens = _random_tokens(config)
        self.feed = Feed(Samples(tokens, config.model.block_size, training.seed), device)
        self.loss_scale = FIRST if precision == "float16" else 1.0
        self.cursor = 0

    @property
    def sequences(self) -> int:
        """In a whole step."""
        return self.config.training.sequences_per_step

    def run(self, part: Part = nullcontext) -> None:
        """A whole step by the micro-batch; `part(name)` is a context around each of its parts."""
        self.optimizer.forget_gradients()
        step = StepData(self.cursor, self.sequences, self.config.model.block_size)
        for first, count in step.pieces(self.config.training.batch_size):
            self.add_gradients(first, count, part)
        self.update(part)
        self.cursor += self.sequences

    def add_gradients(self, first: int, count: int, part: Part = nullcontext) -> None:
        """Forward and backward pass of samples first .. first + count - 1."""
        with part("data"):
            tokens, targets = self.feed.take((first, count))  # (count, block_size) each
        with part("forward"), devices.autocast(self.device, self.precision):
            summed, number = self.loss_sum(tokens, targets)
        with part("backward"):
            torch.autograd.backward(summed * (self.loss_scale / number))

    def update(self, part: Part = nullcontext) -> None:
        """Norm, update, average. With Muon, "AdamW" is what is left of the update without "Muon"."""
        with part("gradient norm"):
            self.optimizer.gradient_norm().item()
            if self.loss_scale != 1:
                self.optimizer.scale_gradients(1 / self.loss_scale)
        with part("AdamW"):
            self.optimizer.step(SHARE_OF_THE_PEAK_RATE)
        if self.average:
            with part("weight average"):
                self.average.update()
        devices.synchronize(self.device)


def _random_tokens(config: Config) -> npt.NDArray[np.uint32]:
    """(count,) below the vocabulary."""
    count = max(RANDOM_TOKENS, 2 * config.model.block_size)
    generator = np.random.default_rng(config.training.seed)
    return generator.integers(vocabulary(config.model), size=count, dtype=np.uint32)
