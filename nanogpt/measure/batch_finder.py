"""The micro-batch that trains fastest on this machine: doubled, then bisected, each tried by a process of its own.

What is tried is the real step at full block size. A try that runs out of memory, told by the allocator or by the
death of its process, is an answer like any other, and the device is as clean afterwards as it was before.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from nanogpt import durable
from nanogpt.config import Config
from nanogpt.faults import OUT_OF_MEMORY, UserError, classify
from nanogpt.machine import memory_bytes, processor_name
from nanogpt.measure.memory import likely_newton_schulz, predict
from nanogpt.measure.memory_store import MemoryStore

NOISE = 0.03  # a smaller micro-batch is taken when it is at most so much slower: it leaves memory to others
MARGIN = 1.15  # of the prediction, which holds within 15 %
SMALLEST_GAP = 8  # bisection ends when what fits and what does not are within an eighth
PATIENCE = 120.0  # seconds
LEAST_SECONDS_A_TRY = 1.0
MOST_REPEATS = 30  # of a pass in a try: more make it no better known


@dataclass(frozen=True)
class Found:
    """The fastest micro-batch. `tried`: a row for each try; `kept`: it was known from before."""

    micro_batch: int
    tokens_per_second: float
    peak_memory_bytes: int  # of the process that trains, above what it takes without a model
    tried: list[dict]
    kept: bool


def find(
    config: Config,
    folder: Path,
    seconds: float,
    notify: Callable[[str], None] = print,
    attempt: Callable[[Config, int, float], dict] | None = None,
    available: int | None = None,
) -> Found:
    """The fastest micro-batch for `config`, whose vocabulary, device and precision are known.

    It is at most the sequences of a step, no more than what a training has found to fit, and never so large that the
    prediction exceeds `available` bytes (what is free now). Kept in `folder` (nanogpt.measure.memory_store) by
    machine, model, precision, threads and torch, and taken from there when asked again.
    New tries begin until `seconds` have passed; what they, or the memory free now, cut off is not kept.
    `attempt(config, micro_batch, seconds)` makes a try, by default in a process of its own. Raises UserError when not
    even one sequence fits.
    """
    store, key = MemoryStore(folder, notify), _key(config)
    most, known = _most(config, store), store.fastest(key)
    if known and known["micro_batch"] <= most:
        return Found(**known, kept=True)
    free = _available(config) if available is None else available
    with contextlib.closing(Apart()) as apart:
        if attempt is None:
            apart.start()
        search = _Search(config.in_windows(), seconds, notify, attempt or apart, free, most)
        found = search.run()
    if not search.was_cut_off:
        row = asdict(found)
        del row["kept"]
        store.note_fastest(key, row)
    return found


def find_for(config: dict, folder: str, seconds: float) -> dict:
    """find() with plain values in and out, for a worker process; what it tells goes to standard output."""
    return asdict(find(Config.model_validate(config), Path(folder), seconds))


@dataclass
class _Search:
    config: Config
    seconds: float
    notify: Callable[[str], None]
    attempt: Callable[[Config, int, float], dict]
    available: int
    most: int

    def __post_init__(self):
        self.tried: dict[int, dict] = {}
        self.was_cut_off = False
        self.ends = time.monotonic() + self.seconds

    @cached_property
    def largest(self) -> int:
        return min(self.most, self.config.training.sequences_per_step)

    def run(self) -> Found:
        first_that_fails = self.double()
        if first_that_fails and self.still_gaining:
            self.bisect(max(self.that_fit), first_that_fails)
        if not self.that_fit:
            raise UserError(f"{self.config.name}: not even one sequence fits into memory: {self.tried[1]['result']}")
        fastest = max(row["tokens_per_second"] for row in self.that_fit.values())
        best = min(size for size, row in self.that_fit.items() if row["tokens_per_second"] >= (1 - NOISE) * fastest)
        row = self.tried[best]
        return Found(best, row["tokens_per_second"], row["peak_memory_bytes"],
                     [self.tried[size] for size in sorted(self.tried)], kept=False)  # fmt: skip

    def double(self) -> int | None:
        """Try 1, 2, 4 ... and the whole batch; the first that does not fit, or None."""
        sizes = [2**power for power in range(self.largest.bit_length()) if 2**power < self.largest]
        for size in [*sizes, self.largest]:
            if self.that_fit and not self.still_gaining:
                return None
            if self.that_fit and self.is_over:
                self.was_cut_off = True
                return None
            if not self.fits(size):
                return size
        return None

    def bisect(self, fits: int, fails: int) -> None:
        while fails - fits > max(1, fits // SMALLEST_GAP) and not self.is_over:
            middle = (fits + fails) // 2
            fits, fails = (middle, fails) if self.fits(middle) else (fits, middle)

    @property
    def still_gaining(self) -> bool:
        """Whether one of the last two sizes is the fastest: a single slow one may be a busy moment."""
        sizes = sorted(self.that_fit)
        speeds = [self.tried[size]["tokens_per_second"] for size in sizes]
        return bool(speeds) and max(speeds) in speeds[-2:]

    @property
    def that_fit(self) -> dict[int, dict]:
        return {size: row for size, row in self.tried.items() if row["result"] == "fits"}

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.ends

    def fits(self, size: int) -> bool:
        device = self.config.device.type
        predicted = predict(self.config, micro_batch=size, precision=_precision(self.config), device=device,
                            newton_schulz=likely_newton_schulz(device)).total  # fmt: skip
        row: dict[str, Any] = {"micro_batch": size, "predicted_bytes": predicted}
        if predicted * MARGIN > self.available:
            self.was_cut_off = True
            row["result"] = f"not tried: {_gib(predicted * MARGIN)} with a margin, {_gib(self.available)} are free"
        else:
            share = max(LEAST_SECONDS_A_TRY, (self.ends - time.monotonic()) / 4)
            row |= self.attempt(self.config, size, share)
        self.tried[size] = row
        speed = f"{row['tokens_per_second']:,.0f} tokens/s" if row["result"] == "fits" else row["result"]
        self.notify(f"micro-batch {size}: {speed}")
        return row["result"] == "fits"


# ---- one try


class Apart:
    """Makes tries in a process of its own, a new one after each that ran out of memory."""

    def __init__(self, target: str = "nanogpt.measure.batch_finder:try_step"):
        self._target = target
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Any = None

    def __call__(self, config: Config, micro_batch: int, seconds: float) -> dict:
        """{"result": "fits", ...} or {"result": "out of memory, ..."}. Raises RuntimeError for any other failure."""
        try:
            self.start()
            self._pipe.send((config.model_dump(), micro_batch, seconds))
            patience = PATIENCE + 20 * seconds  # one pass of a large model may take many times what it was given
            answer = self._pipe.recv() if self._pipe.poll(patience) else {"result": f"no answer in {patience:.0f} s"}
        except (EOFError, ConnectionError):  # the system ends whoever asks for too much; it says nothing more
            self._process.join()
            answer = {"result": f"out of memory, its process ended ({self._process.exitcode})"}
        if answer.get("result") != "fits":
            self.close()
        if "failure" in answer:
            raise RuntimeError(f"micro-batch {micro_batch}: {answer['failure']}")
        return answer

    def start(self) -> None:
        """Start the process, unless it is there, and wait until it has loaded torch."""
        if self._process is not None:
            return
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_answer_all, args=(self._target, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def close(self) -> None:
        """End the process; its memory is free when this returns."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _answer_all(target: str, pipe) -> None:
    """In the child: one answer for each question, until there are no more."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _is_ended_first()
    module, _, name = target.partition(":")
    attempt = getattr(importlib.import_module(module), name)
    importlib.import_module("nanogpt.measure.real_step")
    pipe.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            question = pipe.recv()
            try:
                answer = {"result": "fits", **attempt(*question)}
            except Exception as error:
                told = f"{type(error).__name__}: {error}".splitlines()[0]
                is_memory = classify(error) == OUT_OF_MEMORY
                answer = {"result": f"out of memory, {told}"} if is_memory else {"failure": told}
            pipe.send(answer)


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _is_ended_first() -> None:
    """Where memory runs out, Linux is to end this process and none that does a person's work."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def try_step(config: dict, micro_batch: int, seconds: float) -> dict:
    """Time a pass and an update for about `seconds`: tokens/s of a step made of such passes, and the peak memory."""
    from nanogpt import device as devices
    from nanogpt.measure.profiler import settle

    whole = Config.model_validate(config)
    device, _, precision = settle(whole)
    _timed(negligible(whole), device, precision, 1, 0.0)  # libraries load what they need in any case
    devices.reset_peak_memory(device)
    before = devices.memory_in_use(device)
    passes, updates = _timed(whole, device, precision, micro_batch, seconds)
    sequences = whole.training.sequences_per_step
    seconds_per_sequence = min(passes) / micro_batch + min(updates) / sequences  # all of a step share its update
    return {
        "tokens_per_second": whole.model.block_size / seconds_per_sequence,
        "peak_memory_bytes": devices.peak_memory(device) - before, "repeats": len(passes),
    }  # fmt: skip


def _timed(
    config: Config, device: str, precision: str, micro_batch: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Seconds of each pass and of each update; of the first, which allocates, only where there is no other.

    Their fastest count: on a busy machine the others tell of its other work.
    """
    from nanogpt import device as devices
    from nanogpt.measure.real_step import RealStep

    real = RealStep(config, device, precision)
    passes, updates = [], []
    is_whole_step = micro_batch >= real.sequences
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
    return config.with_changes({
        "model.n_layer": 1, "model.n_head": 1, "model.n_kv_head": None, "model.head_dim": None, "model.n_embd": 32,
        "model.ffn_dim": None, "model.block_size": 32, "model.vocab_size": 64, "training.initial_block_size": None,
        "training.batch_size": 1, "training.gradient_accumulation": 1, "training.initial_batch": None,
    })  # fmt: skip


# ---- what is kept


def _key(config: Config) -> str:
    """Machine, model, precision, threads and torch: what decides which micro-batch is the fastest."""
    device = config.device
    return durable.digest({
        "machine": [processor_name(), os.cpu_count(), psutil.virtual_memory().total], "torch": version("torch"),
        "device": device.model_dump(), "model": config.model.model_dump(),
        "training": config.training.model_dump(include={"batch_size", "gradient_accumulation", "optimizer",
                                                        "weight_average", "lora_rank"}),
    })  # fmt: skip


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
    from nanogpt.device import describe

    return describe(device).memory_bytes


def _precision(config: Config) -> str:
    """By the settings alone, so that torch is not needed; "auto" has to be settled before."""
    return {True: "bfloat16", False: "float32", "auto": "float32"}.get(
        config.device.mixed_precision, config.device.mixed_precision
    )


def _available(config: Config) -> int:
    """Bytes that are free where `config` trains."""
    if config.device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
