"""How fast real training steps are on this machine, and what they spend their time on.

nanogpt profile CONFIG --vocab 65
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

from nanogpt import device as devices
from nanogpt.config import Config
from nanogpt.data.data_loader import windows
from nanogpt.data.shard_file import Tokens
from nanogpt.faults import OUT_OF_MEMORY, DeviceError, classify
from nanogpt.measure.real_step import RealStep
from nanogpt.results.speed import Choice, Profile, Rates, StepSpeed
from nanogpt.training import parity
from nanogpt.training.numerics import native_precision
from nanogpt.training.validation import rows_at_once
from nanogpt.weights import checkpoint

P = ParamSpec("P")
Result = TypeVar("Result")

WARM_UP_STEPS = 2  # the first allocates, the second still finds caches cold
LEAST_STEPS = 3
LEAST_GAIN = 0.03  # of a step, for what is less exact: repeated measurements differ by as much
LONG_STEP = 0.5  # seconds; products that take so long gain from every core, and one turn of them is long enough
TURNS = 2  # of each setting that is compared
RATE_SECONDS = 0.1  # of matrix products, for the rate that a training's is held against
TRACED_STEPS = 3
MADE_UP_SPLIT = 2**16  # tokens to evaluate on where no data is given: about tiny Shakespeare's validation split
PARTS = ("data", "forward", "backward", "gradient norm", "AdamW", "Muon", "weight average", "evaluation", "checkpoint")


def choose_precision_and_threads(config: dict[str, Any], device: str, seconds: float) -> StepSpeed:
    """measure_speed() with what is fastest here: float32 or half precision, and on the CPU one thread or one a core.

    On MPS also how attention is computed, and Muon's orthogonalisation in which precision (docs/mps.md says why each is
    open). `config`: a Config as plain values, with model.vocab_size. What it names (device.mixed_precision other than
    auto, device.threads) is taken as it is. `seconds` are shared by the measurements. One thread wins for small models
    on a machine that does other work: two wait for each other (4,500 against 10,800 tokens/s at 0.8 M parameters).
    Each counts by the faster of two turns, the second in reverse order, so that one bad moment of a shared machine
    decides nothing: a run of two minutes met one, and trained on one thread to its end.
    """
    whole = Config.model_validate(config).with_changes({"device.type": device})
    if device == "mps":
        return _choose_on_mps(whole, seconds)
    setting = whole.device.mixed_precision
    precisions: list[bool | str] = [False, True] if setting == "auto" else [setting]
    share = seconds / TURNS / (len(precisions) + 1)

    def measured(settings: dict[str, bool | int | str]) -> StepSpeed:
        return measure_speed(whole.with_changes(settings), share)

    candidates: list[dict[str, bool | int | str]] = [{"device.mixed_precision": mixed} for mixed in precisions]
    speeds = [measured(settings) for settings in candidates]
    fastest = min(speeds, key=_seconds_per_step)
    if fastest.seconds_per_step >= LONG_STEP:
        return fastest
    if device == "cpu" and whole.device.threads is None and devices.physical_cores() > 1:
        candidates.append({"device.mixed_precision": fastest.mixed_precision, "device.threads": 1})
        speeds.append(measured(candidates[-1]))
    if len(candidates) > 1:
        speeds += [measured(settings) for settings in reversed(candidates)]
    return min(speeds, key=_seconds_per_step)


def _seconds_per_step(speed: StepSpeed) -> float:
    return speed.seconds_per_step


# Of each setting that is "auto": what MPS is known to compute, and what may be faster on some chips. The first is the
# most exact, and taken unless another gains LEAST_GAIN. float16 needs its loss scaled, and is there for M1 and M2,
# which emulate bfloat16. Not torch.compile: it trained to NaN there without an error (pytorch #171764).
OPEN_ON_MPS: dict[str, list[bool | str]] = {
    "mixed_precision": [False, True, "float16"],
    "newton_schulz": ["float32", "bfloat16", "float16"],
    "attention": ["sdpa", "products"],
}


def _choose_on_mps(config: Config, seconds: float) -> StepSpeed:
    """One setting after the other, each with what was chosen before it.

    A value whose loss or gradients are not the CPU's, or that raises, is refused. Raises what the first value of all
    raises: then it is the device, or the model, that fails.
    """
    open_settings = {key: values for key, values in OPEN_ON_MPS.items() if getattr(config.device, key) == "auto"}
    if config.training.optimizer != "muon":
        open_settings.pop("newton_schulz", None)
    first = {f"device.{key}": values[0] for key, values in open_settings.items()}
    share = seconds / (1 + sum(len(values) - 1 for values in open_settings.values()))
    config = config.with_changes(first)
    fastest, choices = measure_speed(config, share), []
    for key, values in open_settings.items():
        speeds, refused = {values[0]: fastest}, dict[str, str]()
        for value in values[1:]:
            try:
                speeds[value] = measure_speed(config.with_changes({f"device.{key}": value}), share, checked=True)
            except (DeviceError, RuntimeError, TypeError) as error:
                if classify(error) == OUT_OF_MEMORY:
                    raise
                refused[_named(value)] = (str(error).splitlines() or [type(error).__name__])[0]
        best = min(speeds, key=lambda value: speeds[value].seconds_per_step)
        if speeds[best].seconds_per_step > (1 - LEAST_GAIN) * fastest.seconds_per_step:
            best = values[0]
        fastest, config = speeds[best], config.with_changes({f"device.{key}": best})
        milliseconds = {_named(value): 1e3 * speed.seconds_per_step for value, speed in speeds.items()}
        choices.append(Choice(key, _named(best), milliseconds, refused))
    return replace(fastest, choices=choices)


def _named(value: bool | str) -> str:
    return {False: "float32", True: "bfloat16"}.get(value, str(value)) if isinstance(value, bool) else value


def measure_speed(config: Config, seconds: float = 5.0, checked: bool = False) -> StepSpeed:
    """TimedSteps for about `seconds`, the steps that warm them up included."""
    steps = TimedSteps(config, seconds, checked)
    return steps.speed(seconds, spent=steps.warm_up_seconds)


class TimedSteps:
    """Real steps of `config` on random tokens, warmed up, to be timed in one window or in several.

    `config` has its vocabulary. `checked`: loss and gradients are compared with the CPU's first; raises DeviceError
    where they differ. Raises what a device raises when it is out of memory.
    """

    def __init__(self, config: Config, seconds: float, checked: bool = False):
        self.config = config.in_windows()
        self.device, self._mixed_precision, self._precision = settle(self.config)
        devices.reset_peak_memory(self.device)
        self.real = RealStep(self.config, self.device, self._precision)
        if checked:
            tokens, targets = self.real.feed.take((0, config.training.batch_size))
            parity.require_parity(self.real.model, tokens, targets, self._precision, self.real.loss_scale)
        self.warm_up_seconds = self._seconds_of_one()
        # GPT-2 124M: the second step takes 2.8 s, 2.2 of them in page faults, the later ones 1.6.
        if self.warm_up_seconds < seconds:
            for _ in range(WARM_UP_STEPS - 1):
                self.warm_up_seconds += self._seconds_of_one()

    def speed(self, seconds: float, spent: float = 0.0) -> StepSpeed:
        """Median seconds a step, tokens/s, FLOP/s, peak memory in bytes, in a window of about `seconds`, of which some
        are `spent` already: at least three steps are timed, or one where three take longer than `seconds`."""
        devices.reset_peak_memory(self.device)
        ends = time.perf_counter() + seconds - spent
        times = [self._seconds_of_one()]  # of a model whose step outlasts `seconds`, one has to do
        while time.perf_counter() < ends or (len(times) < LEAST_STEPS and times[0] < seconds / LEAST_STEPS):
            times.append(self._seconds_of_one())
        seconds_per_step = median(times)
        return StepSpeed(
            **vars(_rates(self.real, seconds_per_step)),
            parameters=self.real.model.num_parameters(),
            seconds_per_step=seconds_per_step,
            peak_memory_bytes=devices.peak_memory(self.device),
            mixed_precision=self._mixed_precision,
            precision=self._precision,
            device=self.device,
            threads=torch.get_num_threads(),
            steps=len(times),
            attention=self.config.device.attention,
            newton_schulz=self.config.device.newton_schulz,
        )

    def _seconds_of_one(self) -> float:
        began = time.perf_counter()
        self.real.run()
        return time.perf_counter() - began


def settle(config: Config) -> tuple[str, bool | str, str]:
    """Set threads and allocator; device, the setting of mixed precision and the precision that `config` trains with."""
    device = devices.choose(config.device.type).device
    threads = config.device.threads or devices.physical_cores()
    devices.configure(device, threads, saves_memory=config.device.gradient_checkpointing)
    mixed_precision = config.device.mixed_precision
    if mixed_precision == "auto":
        mixed_precision = native_precision(device) == "bfloat16"
    return device, mixed_precision, devices.precision_of(device, mixed_precision)


def _rates(real: RealStep, seconds_per_step: float) -> Rates:
    tokens_per_second = real.config.tokens_per_step / seconds_per_step
    flops = tokens_per_second * real.model.flops_per_token()
    matmul = _matmul_rate(real.device, real.precision, torch.get_num_threads())
    named = devices.peak_rate(torch.cuda.get_device_name(0), real.precision) if real.device == "cuda" else None
    return Rates(tokens_per_second, flops, matmul, flops / matmul, flops / named if named else None)


@cache
def _matmul_rate(device: str, precision: str, threads: int) -> float:
    return devices.matmul_rate(device, getattr(torch, precision), seconds=RATE_SECONDS)


# ---- where the time goes


def profile(
    config: Config, steps: int, tokens: Tokens | None = None, split: Tokens | None = None, trace: Path | None = None
) -> Profile:
    """Time the parts of `steps` real steps, one evaluation of `split` and one checkpoint.

    `config` has its vocabulary. `tokens` are trained on and `split` is evaluated; random ones by default. The device
    is waited for around each part, which a training does not do. With `trace`, a few more steps are recorded there by
    torch.profiler, for chrome://tracing or Perfetto. Raises what a device raises when it is out of memory.
    """
    config = config.in_windows()
    device, _, precision = settle(config)
    devices.reset_peak_memory(device)
    real = RealStep(config, device, precision, tokens)
    for _ in range(WARM_UP_STEPS):
        real.run()
    watch = Stopwatch(device)
    if muon := real.optimizer.muon:
        setattr(muon, "step", watch.around("Muon", muon.step))  # noqa: B010  a method of this one object
    laps = []
    for _ in range(steps):
        began = time.perf_counter()
        real.run(watch.part)
        laps.append(time.perf_counter() - began)
    peak = devices.peak_memory(device)
    seconds = {part: taken / steps for part, taken in watch.seconds.items()}
    seconds["evaluation"] = _evaluation(real, split) / config.training.eval_interval
    seconds["checkpoint"] = _checkpoint(real) / _steps_between_checkpoints(config, fmean(laps))
    if trace:
        _trace(real, trace)
    return Profile(
        **vars(_rates(real, median(laps))),
        seconds={part: seconds[part] for part in PARTS if part in seconds},
        parameters=real.model.num_parameters(),
        peak_memory_bytes=peak,
        device=device,
        precision=precision,
        threads=torch.get_num_threads(),
        steps=steps,
    )


class Stopwatch:
    """Seconds by part, without those of the parts inside; the device is waited for at each end."""

    def __init__(self, device: str, clock: Callable[[], float] = time.perf_counter):
        self.seconds: dict[str, float] = defaultdict(float)
        self._device, self._clock = device, clock
        self._inside = [0.0]  # of each open part: what the parts within it took

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what happens inside as `name`."""
        devices.synchronize(self._device)
        began = self._clock()
        self._inside.append(0.0)
        try:
            yield
        finally:
            devices.synchronize(self._device)
            taken = self._clock() - began
            self.seconds[name] += taken - self._inside.pop()
            self._inside[-1] += taken

    def around(self, name: str, function: Callable[P, Result]) -> Callable[P, Result]:
        """`function`, timed as `name`."""

        def timed(*arguments: P.args, **named: P.kwargs) -> Result:
            with self.part(name):
                return function(*arguments, **named)

        return timed


@torch.no_grad()
def _evaluation(real: RealStep, split: Tokens | None) -> float:
    """Seconds of one whole evaluation, from its first pieces where it has many."""
    config = real.config
    if split is None:
        split = np.zeros(MADE_UP_SPLIT, dtype=np.uint16)
    block_size = config.model.block_size
    rows = rows_at_once(block_size, config.training.batch_size)
    real.model.eval()
    times = []
    with devices.autocast(real.device, real.precision):
        for tokens, targets in windows(split, block_size, rows):
            began = time.perf_counter()
            real.model.loss_sum(tokens.to(real.device), targets.to(real.device))[0].item()
            times.append(time.perf_counter() - began)
            if len(times) > LEAST_STEPS:
                break
    real.model.train()
    pieces = -(-len(split) // (rows * block_size))
    return pieces * min(times)


def _checkpoint(real: RealStep) -> float:
    """Seconds of one checkpoint, in the system's folder for temporary files."""
    with TemporaryDirectory() as folder:
        began = time.perf_counter()
        state = {"optimizer": real.optimizer.state_dict()}
        checkpoint.save(Path(folder) / "checkpoint", real.model, step=0, facts={}, state=state)
        return time.perf_counter() - began


def _steps_between_checkpoints(config: Config, seconds_per_step: float) -> float:
    training = config.training
    return min(training.checkpoint_interval, max(1.0, 60 * training.checkpoint_minutes / seconds_per_step))


def _trace(real: RealStep, path: Path) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if real.device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.profiler.profile(activities=activities) as recorded:
        for _ in range(TRACED_STEPS):
            real.run(torch.profiler.record_function)
    recorded.export_chrome_trace(str(path))
