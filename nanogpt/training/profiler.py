"""How fast real training steps are on this machine: forward, backward and update, at full block size.

    python -m nanogpt.training.profiler CONFIG --vocab 65 --seconds 5
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from statistics import median

import torch

from nanogpt import device as devices
from nanogpt.config import Config, load_config
from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT
from nanogpt.training.computing import native_precision
from nanogpt.training.optimizer import Optimizer

WARM_UP_STEPS = 2  # the first allocates, the second still finds caches cold
LEAST_STEPS = 3
LONG_STEP = 0.5  # seconds; products that take so long gain from every core


def choose_precision_and_threads(config: dict, device: str, seconds: float) -> dict:
    """measure_speed() with what is fastest here: float32 or bfloat16, and on the CPU one thread or one a core.

    `config`: a Config as plain values, with model.vocab_size. What it names (device.mixed_precision true or false,
    device.threads) is taken as it is. `seconds` are shared by the measurements. One thread wins for small models
    on a machine that does other work: two wait for each other (4,500 against 10,800 tokens/s at 0.8 M parameters).
    """
    whole = Config.model_validate(config).with_changes({"device.type": device})
    precisions = [False, True] if whole.device.mixed_precision == "auto" else [whole.device.mixed_precision]
    share = seconds / (len(precisions) + 1)
    fastest = min((_speed_with(whole, share, mixed_precision=mixed) for mixed in precisions), key=_step)
    threads_matter = device == "cpu" and whole.device.threads is None and devices.physical_cores() > 1
    if threads_matter and _step(fastest) < LONG_STEP:
        single = _speed_with(whole, share, mixed_precision=fastest["mixed_precision"], threads=1)
        fastest = min(fastest, single, key=_step)
    return fastest


def _speed_with(config: Config, seconds: float, **device: bool | int) -> dict:
    changes = {f"device.{key}": value for key, value in device.items()}
    return measure_speed(config.with_changes(changes), config.model.vocab_size, seconds)


def _step(speed: dict) -> float:
    return speed["seconds_per_step"]


def measure_speed(config: Config, vocab_size: int, seconds: float = 5.0) -> dict:
    """Real steps on random tokens for about `seconds`: median seconds a step, tokens/s, FLOP/s, peak memory in bytes.

    At least three steps are timed, or one where three take longer than that. Raises what a device raises when it is
    out of memory.
    """
    config = config.with_changes({"model.vocab_size": vocab_size})
    device = devices.choose(config.device.type).device
    devices.configure(device, config.device.threads or devices.physical_cores())
    devices.reset_peak_memory(device)
    mixed_precision = config.device.mixed_precision
    if mixed_precision == "auto":
        mixed_precision = native_precision(device) == "bfloat16"
    precision = devices.precision_of(device, mixed_precision)
    model = GPT(config.model, seed=config.training.seed).to(device)
    optimizer = Optimizer(model, config.training, getattr(torch, native_precision(device)))
    generator = torch.Generator().manual_seed(config.training.seed)
    shape = (config.training.batch_size, config.model.block_size)
    tokens = torch.randint(vocab_size, shape, generator=generator).to(device)  # (batch_size, block_size)
    accumulation = config.training.gradient_accumulation

    def step() -> float:
        began = time.perf_counter()
        optimizer.forget_gradients()
        for _ in range(accumulation):
            with devices.autocast(device, precision):
                summed, count = model.loss_sum(tokens, tokens)
            (summed / (count * accumulation)).backward()
        optimizer.gradient_norm().item()
        optimizer.step(0.01)  # of the peak: the weights stay near where they began
        devices.synchronize(device)
        return time.perf_counter() - began

    ends = time.perf_counter() + seconds
    first = step()
    if first < seconds / (WARM_UP_STEPS + LEAST_STEPS):
        for _ in range(WARM_UP_STEPS - 1):
            step()
    times = [step()]  # of a model whose step outlasts `seconds`, one warm step has to do
    while time.perf_counter() < ends or (len(times) < LEAST_STEPS and times[0] < seconds / LEAST_STEPS):
        times.append(step())
    seconds_per_step = median(times)
    tokens_per_second = tokens.numel() * accumulation / seconds_per_step
    return {
        "parameters": model.num_parameters(), "seconds_per_step": seconds_per_step,
        "tokens_per_second": tokens_per_second, "flops_per_second": tokens_per_second * model.flops_per_token(),
        "peak_memory_bytes": devices.peak_memory(device), "mixed_precision": mixed_precision,
        "precision": precision, "device": device,
        "threads": torch.get_num_threads(), "steps": len(times),
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Print one line of JSON: choose_precision_and_threads() for a configuration file."""
    parser = argparse.ArgumentParser(prog="python -m nanogpt.training.profiler", description=__doc__)
    parser.add_argument("config", metavar="CONFIG", help="YAML file of a model")
    parser.add_argument("--vocab", type=int, required=True, help="tokens in the vocabulary")
    parser.add_argument("--seconds", type=float, default=5.0, help="time to measure")
    arguments = parser.parse_args(argv)
    try:
        config = load_config(arguments.config).with_changes({"model.vocab_size": arguments.vocab})
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    device = devices.choose(config.device.type).device
    print(json.dumps(choose_precision_and_threads(config.model_dump(), device, arguments.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
