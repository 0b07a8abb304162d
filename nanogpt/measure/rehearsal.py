"""What a training will spend its time on, measured on this machine before it begins: steps, and what goes between.

The steps are those of nanogpt.measure.profiler, in short windows with the other work between them: a machine that
does something else for a second, or that slows down as it warms, then counts for what it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from nanogpt import device as devices
from nanogpt.config import Config
from nanogpt.decoders.torch_decoder import TorchDecoder
from nanogpt.inference.options import Options
from nanogpt.inference.sampling import Sampler, choose
from nanogpt.measure.profiler import TimedSteps
from nanogpt.measure.real_step import RealStep
from nanogpt.measure.sizes import parameters
from nanogpt.results.speed import Rehearsal, StepSpeed
from nanogpt.training.validation import SAMPLE_TOKENS, rows_at_once
from nanogpt.weights import checkpoint

WINDOWS = 3
LONG = 10.0  # seconds of steps; what took so long is not measured again
DECODED_TOKENS = 24
SMALL, LARGE = 1 << 10, 1 << 22  # numbers in the files that are saved to see what a byte costs


def rehearse(config: dict[str, Any], device: str, folder: str, seconds: float) -> Rehearsal:
    """TimedSteps of `config`, of their windows the one with the median seconds a step, and what happens between
    steps: forward alone as in an evaluation, one sample, one checkpoint in `folder`.

    `config`: a Config as plain values with model.vocab_size, its precision and threads decided; `seconds` are for the
    steps. Raises what a device raises when it is out of memory.
    """
    whole = Config.model_validate(config).with_changes({"device.type": device}).in_windows()
    window = seconds / WINDOWS
    steps, speeds = TimedSteps(whole, window), list[StepSpeed]()

    def measure() -> None:
        if sum(speed.seconds_per_step * speed.steps for speed in speeds) < LONG:
            speeds.append(steps.speed(window))

    measure()
    evaluation = _evaluation(steps.real, speeds[0].seconds_per_step)
    measure()
    sample_seconds = _sample(steps.real)
    measure()
    save_seconds = _save(whole, Path(folder))
    middle = sorted(speeds, key=lambda speed: speed.seconds_per_step)[(len(speeds) - 1) // 2]
    peak = max(speed.peak_memory_bytes for speed in speeds)
    return Rehearsal(
        **vars(replace(middle, peak_memory_bytes=peak)),
        evaluation_seconds_per_token=evaluation,
        sample_seconds=sample_seconds,
        save_seconds=save_seconds,
    )


def _evaluation(real: RealStep, seconds_per_step: float) -> float:
    """Seconds of the forward pass for one token, in pieces of the size that an evaluation takes; smaller, for a model
    that would need more than a second for one."""
    block_size, training = real.config.model.block_size, real.config.training
    in_a_second = int(3 * training.sequences_per_step / seconds_per_step)
    rows = max(1, min(rows_at_once(block_size, training.batch_size), in_a_second))
    tokens = torch.zeros(rows, block_size, dtype=torch.long, device=real.device)

    @torch.no_grad()
    def forward() -> None:
        with devices.autocast(real.device, real.precision):
            real.model.loss_sum(tokens, tokens)[0].item()

    real.model.eval()
    seconds = _fastest(forward) / tokens.numel()
    real.model.train()
    return seconds


def _sample(real: RealStep) -> float:
    """Seconds of one sample of SAMPLE_TOKENS; past block_size half a window is read again, as the engine does."""
    block_size = real.config.model.block_size
    decoder = TorchDecoder(real.model, real.device)
    window = max(1, block_size // 2)
    sampler = Sampler(Options(temperature=1.0, seed=0), ())

    def decode(count: int) -> None:
        cache = decoder.new_cache()
        token = choose(decoder.prefill([[0]], cache), [sampler])  # (1,)
        for _ in range(count - 1):
            token = choose(decoder.step(np.array(token), cache), [sampler])

    tokens = min(DECODED_TOKENS, block_size)
    of_a_token = _fastest(lambda: decode(tokens)) / tokens
    of_a_window = _fastest(lambda: decoder.prefill([[0] * window], decoder.new_cache()))
    real.model.train()
    return SAMPLE_TOKENS * of_a_token + max(0, SAMPLE_TOKENS // window - 2) * of_a_window


def _save(config: Config, folder: Path) -> float:
    """Seconds of a checkpoint, from two that are small: what any costs, and what a byte adds."""
    moments = 1 if config.training.optimizer == "muon" else 2  # the tables' second one is little
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as place:

        def save(numbers: int) -> None:
            model = nn.Linear(numbers, 1, bias=False)
            state = {"moments": torch.zeros(moments * numbers)}
            checkpoint.save(Path(place) / "rehearsal", model, step=0, facts={}, state=state)

        small, large = (_fastest(partial(save, numbers)) for numbers in (SMALL, LARGE))
    return small + max(0.0, large - small) * parameters(config.model).total / LARGE


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the faster of two tries: the first finds caches cold."""
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)
