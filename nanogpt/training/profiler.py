"""How fast this machine trains a configuration: real steps - forward, backward, optimizer - on random tokens."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from nanogpt import device as devices
from nanogpt.config import Config, validate
from nanogpt.model.gpt import GPT
from nanogpt.training.optimizer import Optimizer

WARM_UP_STEPS = 2
FASTER = 1.05  # bfloat16 is taken when it is at least this much faster: it costs digits


def measure_speed(config: Config, vocab_size: int, seconds: float, device: str, mixed_precision: bool) -> dict:
    """Facts of about `seconds` of real steps of `config`'s effective batch: median seconds a step, tokens/s, FLOP/s.

    Raises what the device raises when it is out of memory.
    """
    config = config.with_changes({"model.vocab_size": vocab_size})
    torch.set_num_threads(config.device.threads or devices.physical_cores())
    model = GPT(config.model).to(device).train()
    native = device == "cuda" or (device == "cpu" and devices.native_bfloat16())
    optimizer = Optimizer(model, config.training, torch.bfloat16 if native else torch.float32)
    step = _stepper(config, model, optimizer, device, mixed_precision)
    for _ in range(WARM_UP_STEPS):
        step()
    times, until = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    sequences = config.training.batch_size * config.training.gradient_accumulation
    tokens = sequences * config.model.block_size
    seconds_per_step = statistics.median(times)
    return {
        "name": config.name, "parameters": model.num_parameters(), "seconds_per_step": seconds_per_step,
        "tokens_per_second": tokens / seconds_per_step,
        "flops_per_second": model.flops_per_token() * tokens / seconds_per_step,
        "peak_memory_bytes": devices.peak_memory(device), "micro_batch": config.training.batch_size,
        "mixed_precision": mixed_precision, "precision": "bfloat16" if mixed_precision else "float32",
        "steps": len(times),
    }  # fmt: skip


def choose_precision(config: dict, device: str, seconds: float) -> dict:
    """The facts of the faster precision, with those of the other as `other`; only what the configuration allows.

    `config` is a Config as a dict with its model.vocab_size known. `share_of_peak` is of this device's rate for
    matrix products in the precision chosen, measured here.
    """
    wanted = validate(Config, config, "configuration")
    allowed = [False, True] if wanted.device.mixed_precision == "auto" else [wanted.device.mixed_precision]
    if wanted.device.mixed_precision == "auto" and not devices.describe(device)["bfloat16"]:
        allowed = [False]
    measured = [
        measure_speed(wanted, wanted.model.vocab_size, seconds / len(allowed), device, mixed) for mixed in allowed
    ]
    best = measured[-1] if measured[0]["seconds_per_step"] > FASTER * measured[-1]["seconds_per_step"] else measured[0]
    peak = devices.matmul_rate(device, torch.bfloat16 if best["mixed_precision"] else torch.float32)
    other = next((facts for facts in measured if facts is not best), None)
    return {**best, "other": other, "peak_flops_per_second": peak, "share_of_peak": best["flops_per_second"] / peak}


def _stepper(
    config: Config, model: GPT, optimizer: Optimizer, device: str, mixed_precision: bool
) -> Callable[[], None]:
    """One whole training step as a function; it returns when the device is done."""
    training, block_size = config.training, config.model.block_size
    shape = (training.batch_size, block_size)
    tokens = torch.randint(config.model.vocab_size, shape, device=device)  # (batch_size, block_size)

    def step() -> None:
        optimizer.forget_gradients()
        for _ in range(training.gradient_accumulation):
            with devices.autocast(device, mixed_precision):
                total, count = model.loss_sum(tokens, tokens)
            (total / count / training.gradient_accumulation).backward()
        optimizer.gradient_norm().item()
        optimizer.step(1e-3)
        devices.synchronize(device)

    return step
