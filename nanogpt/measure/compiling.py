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

TURNS = 3  # of both, alternating: a machine that changes meanwhile changes both
LEAST_STEPS = 2  # of a turn


def compare_compiled(config: dict[str, Any], device: str, seconds: float) -> CompiledSpeed:
    """Steps of `config` in eager mode and compiled, alternating for about `seconds` besides the compiling.

    `config`: a Config as plain values, with model.vocab_size, its precision and threads decided. Raises what the
    compiler or the device raises.
    """
    whole = Config.model_validate(config).with_changes({"device.type": device, "device.compile": False}).in_windows()
    device, _, precision = settle(whole)
    eager = RealStep(whole, device, precision)
    eager.run()
    compiled = RealStep(whole.with_changes({"device.compile": True}), device, precision)
    began = time.perf_counter()
    compiled.run()
    first = time.perf_counter() - began
    times: dict[RealStep, list[float]] = {eager: [], compiled: []}
    for _ in range(TURNS):
        for real, taken in times.items():
            real.run()  # finds the other's numbers in the caches
            ends = time.perf_counter() + seconds / (2 * TURNS)
            done = 0
            while done < LEAST_STEPS or time.perf_counter() < ends:
                began = time.perf_counter()
                real.run()
                taken.append(time.perf_counter() - began)
                done += 1
    with_compiler = median(times[compiled])
    return CompiledSpeed(
        eager_seconds_per_step=median(times[eager]),
        seconds_per_step=with_compiler,
        compile_seconds=max(0.0, first - with_compiler),
        peak_memory_bytes=devices.peak_memory(device),
    )
