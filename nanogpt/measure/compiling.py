"""Whether torch.compile pays: what a step gains by it on this machine, and how long compiling takes."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from nanogpt import device as devices
from nanogpt.config import Config
from nanogpt.measure.profiler import settle
from nanogpt.measure.real_step import RealStep
from nanogpt.results import CompiledSpeed

LEAST_STEPS = 2  # of a turn


def compare_compiled(config: dict[str, Any], device: str, seconds: float) -> CompiledSpeed:
    """Steps of `config` in eager mode, compiled, and in eager mode again, for about `seconds` besides the compiling: a
    machine that changes meanwhile changes both. One model at a time, so that the peak is that of the compiled one.

    `config`: a Config as plain values, with model.vocab_size, its precision and threads decided. Raises what the
    compiler or the device raises.
    """
    whole = Config.model_validate(config).with_changes({"device.type": device, "device.compile": False}).in_windows()
    device, _, precision = settle(whole)

    def seconds_of_eager_steps() -> list[float]:
        eager = RealStep(whole, device, precision)
        eager.run()
        return _seconds_of_steps(eager, seconds / 4)

    before = seconds_of_eager_steps()
    devices.reset_peak_memory(device)
    real = RealStep(whole.with_changes({"device.compile": True}), device, precision)
    began = time.perf_counter()
    real.run()
    first = time.perf_counter() - began
    compiled = median(_seconds_of_steps(real, seconds / 2))
    peak = devices.peak_memory(device)
    del real
    devices.give_back_memory(device)
    return CompiledSpeed(
        eager_seconds_per_step=median([*before, *seconds_of_eager_steps()]),
        seconds_per_step=compiled,
        compile_seconds=max(0.0, first - compiled),
        peak_memory_bytes=peak,
    )


def _seconds_of_steps(real: RealStep, seconds: float) -> list[float]:
    ends, taken = time.perf_counter() + seconds, list[float]()
    while len(taken) < LEAST_STEPS or time.perf_counter() < ends:
        began = time.perf_counter()
        real.run()
        taken.append(time.perf_counter() - began)
    return taken
