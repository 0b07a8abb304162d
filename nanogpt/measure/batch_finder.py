"""The micro-batch that trains fastest on this machine: doubled, then bisected, each tried by a process of its own.

What is tried is the real step at full block size. A try that runs out of memory, as the allocator or the death of its
process says, is an answer like any other, and the device is as clean afterwards as it was before.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from nanogpt import durable
from nanogpt.config import Config
from nanogpt.faults import OUT_OF_MEMORY, UserError, classify
from nanogpt.machine import memory_bytes, processor_name
from nanogpt.measure.memory import likely_precision, predict
from nanogpt.measure.memory_store import MemoryStore
from nanogpt.process.endings import STALL
from nanogpt.process.worker import Worker, WorkerDied
from nanogpt.results.speed import FastestMicroBatch, MicroBatchTry
from nanogpt.units import byte_size

NOISE = 0.03  # a smaller micro-batch is taken when it is at most so much slower: it leaves memory to others
MARGIN = 1.15  # of the prediction, which holds within 15 %
SMALLEST_GAP = 8  # bisection ends when what fits and what does not are within an eighth
PATIENCE = 120.0  # seconds
LEAST_SECONDS_A_TRY = 1.0
LOG = "batch_size.log"  # what the tries print
MOST_REPEATS = 30  # of a pass in a try: more make it no better known


Attempt = Callable[[Config, int, float], MicroBatchTry]  # config, micro-batch, seconds


def find(
    config: Config,
    folder: Path,
    seconds: float,
    notify: Callable[[str], None] = print,
    attempt: Attempt | None = None,
    available: int | None = None,
) -> FastestMicroBatch:
    """The fastest micro-batch for `config`, whose vocabulary, device and precision are known.

    It is at most the sequences of a step, no more than what a training has found to fit, and never so large that the
    prediction exceeds `available` bytes (what is free now). Kept in `folder` (nanogpt.measure.memory_store) by
    machine, model, precision, threads and torch, and taken from there when asked again.
    New tries begin until `seconds` have passed; what they, or the memory free now, cut off is not kept.
    `attempt` makes a try, by default in a process of its own. Raises UserError when not even one sequence fits.
    """
    store, key = MemoryStore(folder, notify), _key(config)
    most, known = _most(config, store), store.fastest(key)
    if known and known.micro_batch <= most:
        return known
    free = _available(config) if available is None else available
    with contextlib.closing(SeparateProcess(Path(folder) / LOG)) as separate:
        if attempt is None:
            notify("starting a process that tries micro-batches")
            separate.start()
        search = _Search(config.in_windows(), seconds, notify, attempt or separate, free, most)
        found = search.run()
    if not search.was_cut_off:
        store.note_fastest(key, found)
    return found


def find_for(config: dict[str, Any], folder: str, seconds: float) -> FastestMicroBatch:
    """find() for a worker process: `config` is a Config as plain values; progress goes to standard output."""
    return find(Config.model_validate(config), Path(folder), seconds)


@dataclass
class _Search:
    config: Config
    seconds: float
    notify: Callable[[str], None]
    attempt: Attempt
    available: int
    most: int

    def __post_init__(self) -> None:
        self.tried: dict[int, MicroBatchTry] = {}
        self.was_cut_off = False
        self.ends = time.monotonic() + self.seconds

    def run(self) -> FastestMicroBatch:
        first_that_fails = self.double()
        if first_that_fails and self.still_gaining:
            self.bisect(max(self.speeds), first_that_fails)
        speeds = self.speeds
        if not speeds:
            raise UserError(f"{self.config.name}: not even one sequence fits into memory: {self.tried[1].result}")
        best = min(size for size, speed in speeds.items() if speed >= (1 - NOISE) * max(speeds.values()))
        peak = self.tried[best].peak_memory_bytes or 0
        rows = [row for _, row in sorted(self.tried.items())]
        return FastestMicroBatch(best, speeds[best], peak, rows, kept=False)

    def double(self) -> int | None:
        """Try 1, 2, 4 ... and the whole batch; the first that does not fit, or None."""
        largest = min(self.most, self.config.training.sequences_per_step)
        sizes = [1 << power for power in range(largest.bit_length()) if 1 << power < largest]
        for size in [*sizes, largest]:
            if self.speeds and not self.still_gaining:
                return None
            if self.speeds and self.is_over:
                self.was_cut_off = True
                return None
            if not self.fits(size):
                return size
        return None

    def bisect(self, fits: int, fails: int) -> None:
        while fails - fits > max(1, fits // SMALLEST_GAP):
            if self.is_over:
                self.was_cut_off = True
                return
            middle = (fits + fails) // 2
            fits, fails = (middle, fails) if self.fits(middle) else (fits, middle)

    @property
    def speeds(self) -> dict[int, float]:
        """Tokens a second of the micro-batches that fit."""
        return {size: row.tokens_per_second for size, row in self.tried.items() if row.tokens_per_second is not None}

    @property
    def still_gaining(self) -> bool:
        """Whether one of the last two sizes is the fastest: a single slow one may be a busy moment."""
        speeds = [speed for _, speed in sorted(self.speeds.items())]
        return bool(speeds) and max(speeds) in speeds[-2:]

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.ends

    def fits(self, size: int) -> bool:
        """Try `size`, unless the prediction exceeds the memory that is free."""
        device = self.config.device.type
        predicted = predict(
            self.config,
            micro_batch=size,
            precision=_precision(self.config),
            device=device,
            newton_schulz=likely_precision(device),
        ).total
        needed = predicted * MARGIN
        if needed > self.available:
            self.was_cut_off = True
            tried = MicroBatchTry(
                size, f"not tried: {byte_size(needed)} with a margin, {byte_size(self.available)} are free"
            )
        else:
            tried = self.attempt(self.config, size, max(LEAST_SECONDS_A_TRY, (self.ends - time.monotonic()) / 4))
        self.tried[size] = replace(tried, predicted_bytes=predicted)
        speed = tried.result if tried.tokens_per_second is None else f"{tried.tokens_per_second:,.0f} tokens/s"
        self.notify(f"micro-batch {size}: {speed}")
        return tried.fits


# ---- one try


class SeparateProcess:
    """Makes tries in a process of its own, a new one after each that does not fit; what it prints goes to `log`."""

    def __init__(self, log: Path, target: str = "nanogpt.measure.batch_finder:try_step"):
        self._worker, self._target = Worker(log), target

    def start(self) -> None:
        """Start it and wait until it has loaded torch, so that the first try takes no longer than others."""
        self._worker.call("nanogpt.measure.batch_finder:load", timeout=PATIENCE)

    def __call__(self, config: Config, micro_batch: int, seconds: float) -> MicroBatchTry:
        """What a try came to: "fits", "out of memory, ..." or "no answer ...". Raises what else ends it."""
        patience = PATIENCE + 20 * seconds  # one pass of a large model may take many times what it was given
        try:
            answer: MicroBatchTry = self._worker.call(
                self._target,
                timeout=patience,
                config=config.model_dump(),
                micro_batch=micro_batch,
                seconds=seconds,
                device=config.device.type,
            )
            return answer
        except Exception as error:
            self._worker.close(kill=True)
            symptom = error.symptom if isinstance(error, WorkerDied) else classify(error)
            if symptom == OUT_OF_MEMORY:
                return MicroBatchTry(micro_batch, f"out of memory, {str(error).splitlines()[0]}")
            if symptom == STALL:
                return MicroBatchTry(micro_batch, f"no answer in {patience:.0f} s")
            raise

    def close(self) -> None:
        """End the process; its memory is free when this returns."""
        self._worker.close(kill=True)


def load() -> None:
    """What every try needs."""
    importlib.import_module("nanogpt.measure.real_step")  # torch: the process that searches does without


def try_step(config: dict[str, Any], micro_batch: int, seconds: float, device: str) -> MicroBatchTry:
    """Time a pass and an update for about `seconds`: tokens/s of a step made of such passes, and the peak memory."""
    from nanogpt import device as devices  # torch: the process that searches does without
    from nanogpt.measure.profiler import settle

    whole = Config.model_validate(config)
    _, _, precision = settle(whole)
    _timed(negligible(whole), device, precision, 1, 0.0)  # libraries load what they need in any case
    devices.reset_peak_memory(device)
    before = devices.memory_in_use(device)
    passes, updates = _timed(whole, device, precision, micro_batch, seconds)
    seconds_per_sequence = min(passes) / micro_batch + min(updates) / whole.training.sequences_per_step
    return MicroBatchTry(
        micro_batch,
        "fits",
        tokens_per_second=whole.model.block_size / seconds_per_sequence,
        peak_memory_bytes=devices.peak_memory(device) - before,
        repeats=len(passes),
    )


def _timed(
    config: Config, device: str, precision: str, micro_batch: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Seconds of each pass and of each update; of the first, which allocates, only where there is no other.

    Their fastest count: on a busy machine the others tell of its other work.
    """
    from nanogpt import device as devices  # torch
    from nanogpt.measure.real_step import RealStep

    real = RealStep(config, device, precision)
    passes: list[float] = []
    updates: list[float] = []
    is_whole_step = micro_batch >= config.training.sequences_per_step
    ends = time.perf_counter() + seconds
    while not passes or (len(passes) < MOST_REPEATS and time.perf_counter() + passes[-1] + updates[-1] < ends):
        began = time.perf_counter()
        if is_whole_step:  # gradients are not added to others
            real.optimizer.forget_gradients()
        real.add_gradients(0, micro_batch)
        devices.synchronize(device)
        passed = time.perf_counter()
        real.update()
        passes.append(passed - began)
        updates.append(time.perf_counter() - passed)
    return passes, updates


def negligible(config: Config) -> Config:
    """A model of the same kind that takes next to no memory: what is in use after it is what any process takes."""
    return config.with_changes(
        {
            **dict.fromkeys(("model.n_layer", "model.n_head", "training.batch_size"), 1),
            **dict.fromkeys(("model.n_embd", "model.block_size"), 32),
            **dict.fromkeys(("model.n_kv_head", "model.head_dim", "model.ffn_dim", "training.initial_batch")),
            "model.vocab_size": 64,
            "training.gradient_accumulation": 1,
            "training.initial_block_size": None,
        }
    )


# ---- what is kept


def _key(config: Config) -> str:
    """Machine, model, precision, threads and torch: what decides which micro-batch is the fastest."""
    decisive = {"batch_size", "gradient_accumulation", "optimizer", "weight_average", "lora_rank"}
    return durable.digest(
        {
            "machine": [processor_name(), os.cpu_count(), psutil.virtual_memory().total],
            "torch": version("torch"),
            "device": config.device.model_dump(),
            "model": config.model.model_dump(),
            "training": config.training.model_dump(include=decisive),
        }
    )


def _most(config: Config, store: MemoryStore) -> int:
    """The micro-batch that memory had to become in a training of the same kind; without one, no limit."""
    limit = store.limit(config, _whole_memory(config.device.type))
    asked = config.device.gradient_checkpointing, config.device.longest_window
    if limit is None or limit.fits is None or asked != (limit.fits.gradient_checkpointing, limit.fits.longest_window):
        return sys.maxsize
    return limit.fits.micro_batch


def _whole_memory(device: str) -> int:
    if device == "cpu":
        return memory_bytes()
    from nanogpt.device import describe  # torch

    return describe(device).memory_bytes


def _precision(config: Config) -> str:
    """By the settings alone, so that torch is not needed; "auto" has to be settled before."""
    setting = config.device.mixed_precision
    return "float32" if setting == "auto" else likely_precision(config.device.type, setting)


def _available(config: Config) -> int:
    """Bytes that are free where `config` trains."""
    if config.device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    return int(psutil.virtual_memory().available)
