"""Whether torch.compile pays: what a step gains by it on this machine, and how long compiling takes."""

from __future__ import annotations

import time
from statistics import fmean, median
from typing import Any

from nanogpt import device as devices
from nanogpt.config import Config
from nanogpt.measure.profiler import settle
from nanogpt.measure.real_step import RealStep
from nanogpt.results.speed import CompiledSpeed

LEAST_STEPS = 2  # of a turn


def compare_compiled(config: dict[str, Any], device: str, seconds: float) -> CompiledSpeed:
    """Steps of `config` in eager mode, compiled, and in eager mode again, for about `seconds` besides the compiling.
    Compiled steps are compared with the mean of both turns in eager mode: a machine that grows slower or faster
    meanwhile changes both alike. One model at a time, so that the peak is that of the compiled one.

    `config`: a Config as plain values, with model.vocab_size, its precision and threads decided. Raises what the
    compiler or the device raises.
    """
    whole = Config.model_validate(config).with_changes({"device.type": device, "device.compile": False}).in_windows()
    device, _, precision = settle(whole)

    def eager_seconds_per_step() -> float:
        eager = RealStep(whole, device, precision)
        eager.run()
        return _seconds_per_step(eager, seconds / 4)

    before = eager_seconds_per_step()
    devices.reset_peak_memory(device)
    real = RealStep(whole.with_changes({"device.compile": True}), device, precision)
    began = time.perf_counter()
    real.run()
    first = time.perf_counter() - began
    compiled = _seconds_per_step(real, seconds / 2)
    peak = devices.peak_memory(device)
    del real
    devices.give_back_memory(device)
    return CompiledSpeed(
        eager_seconds_per_step=fmean([before, eager_seconds_per_step()]),
        seconds_per_step=compiled,
        compile_seconds=max(0.0, first - compiled),
        peak_memory_bytes=peak,
    )


def _seconds_per_step(real: RealStep, seconds: float) -> float:
    ends, taken = time.perf_counter() + seconds, list[float]()
    while len(taken) < LEAST_STEPS or time.perf_counter() < ends:
        began = time.perf_counter()
        real.run()
        taken.append(time.perf_counter() - began)
    return median(taken)
