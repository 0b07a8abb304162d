"""Which backend with how many threads decodes a model fastest on this machine: measured once, then remembered.

What is measured while other work takes the processor is believed for BUSY_SECONDS only: beside another process, two
threads may be nine times slower than one, and on an idle machine faster.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanogpt import durable
from nanogpt.config import ModelConfig
from nanogpt.decoders.c_decoder import SOURCE, CDecoder
from nanogpt.decoders.ort_decoder import OrtDecoder
from nanogpt.decoders.parts import parts_of
from nanogpt.decoders.protocol import Decoder, Precision
from nanogpt.decoders.reference import logits_of
from nanogpt.machine import cores, memory_bytes, physical_cores, processor_features, processor_name
from nanogpt.native.cache_folder import cache_folder
from nanogpt.native.unavailable import Unavailable
from nanogpt.weights.safe_loading import Array

Fast = CDecoder | OrtDecoder
FAST: dict[str, type[Fast]] = {"c": CDecoder, "onnxruntime": OrtDecoder}  # in the order in which they are tried
# How far a decoder's logits may be from the reference's: the root mean square of the difference at any position, as a
# share of the logits' standard deviation. Measured over random models: float32 3e-6, int8 in blocks of 32 0.02 to 0.1.
LARGEST_DIFFERENCE: dict[Precision, float] = {"float32": 1e-3, "int8": 0.2}
TOKENS_COMPARED = 12
SECONDS = 0.06  # of steps for each candidate
STEPS = range(3, 200)  # at least and at most
MEASURED_AT = 64  # tokens in the cache
TEXTS = 8  # of a measurement with several
KEPT_CHOICES = 500
BUSY_SECONDS = 600  # after which what was measured on a busy machine is measured again
LEAST_SHARE = 0.9  # of a measurement's time in which one thread has to compute; measured on an idle machine: 0.99
LARGE = 100 * 2**20  # bytes of weights whose measurement takes long enough to be announced: GPT-2's 500 MB 14 s
MEASURING = "measuring what decodes fastest here, some seconds, once for this model"
SMALL = 8  # of the machine's memory a share that is no matter to hold twice
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """A backend and its threads; `for_several`: those of "c" where several texts go on at once."""

    backend: str
    threads: int = 1
    for_several: int = 1


@dataclass(frozen=True)
class Task:
    """A model to decode; `digest`: of its weights; `backends`: what may decode it."""

    config: ModelConfig
    arrays: Mapping[str, Array]
    digest: str
    precision: Precision
    backends: Sequence[str]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def decoder(self, choice: Choice, notify: Notify) -> Fast:
        """`notify` gets what takes seconds. Raises Unavailable."""
        if choice.backend == "c":
            decoder = CDecoder(self.config, self.arrays, choice.threads, self.precision, notify)
            decoder.set_threads(choice.threads, choice.for_several)
            return decoder
        return OrtDecoder(self.config, self.arrays, choice.threads, self.precision)


@np.errstate(all="ignore")  # numbers that become too large are looked at here, no reason to warn on a terminal
def fastest(task: Task, passed_over: Notify, notify: Notify, anew: bool = False) -> Decoder | None:
    """The decoder remembered for the model on this machine, or the fastest of those that compute what the reference
    does. `passed_over` gets why each other one is not taken; None when none is. `notify` gets what takes seconds, when
    it begins. anew: measured whatever is remembered."""
    note = _note(task)
    remembered = None if anew else _remembered(note)
    if remembered is not None and remembered.backend in task.backends:
        with contextlib.suppress(Unavailable):
            return task.decoder(remembered, notify)
    if task.nbytes > LARGE:
        notify(MEASURING)
    measurement = Measurement()
    best: tuple[float, Choice] | None = None  # seconds of a token
    kept: Fast | None = None
    for backend in task.backends:
        try:
            decoder = task.decoder(Choice(backend), notify)
            check(decoder, task.arrays)
            seconds, choice = measurement.fastest_threads(decoder)
        except Unavailable as reason:
            passed_over(f"decoding without {backend}: {reason}")
            continue
        if best is None or seconds < best[0]:
            best, kept = (seconds, choice), decoder if _is_small(task) else None
        del decoder
    if best is None:
        return None
    _remember(note, *best, was_busy=measurement.was_busy)
    if kept is None:
        return task.decoder(best[1], notify)
    if isinstance(kept, CDecoder):
        kept.set_threads(best[1].threads, best[1].for_several)
    else:
        kept.set_threads(best[1].threads)
    return kept


def check(decoder: Decoder, arrays: Mapping[str, Array]) -> None:
    """Raise Unavailable unless `decoder` computes what the reference does, several tokens and one at a time."""
    config = decoder.config
    count = min(TOKENS_COMPARED, config.block_size)
    tokens = np.random.default_rng(0).integers(config.vocab_size or 0, size=count)
    expected = logits_of(config, parts_of(config, arrays), tokens.tolist())  # (count, vocab_size)
    if not np.isfinite(expected).all():
        return  # the model itself computes NaN, which whoever decodes says
    cache, first = decoder.new_cache(), max(1, count // 2)
    found = [decoder.prefill([tokens[:first].tolist()], cache, every=True)]
    found += [decoder.step(token, cache) for token in tokens[first:, None]]
    with np.errstate(all="ignore"):  # of a decoder whose logits are NaN or huge
        differences = np.sqrt(np.square(np.concatenate(found) - expected).mean(axis=1))
    share = float(differences.max() / max(float(expected.std()), 1e-6))
    precision: Precision = "int8" if getattr(decoder, "precision", "") == "int8" else "float32"
    if not share <= LARGEST_DIFFERENCE[precision]:
        raise Unavailable(f"its logits differ from the model's by {share:.1g} of their spread")


class Measurement:
    """Seconds of tokens, and whether other work took the processor meanwhile."""

    def __init__(self) -> None:
        self.was_busy = os.getloadavg()[0] > cores() if hasattr(os, "getloadavg") else False  # not on Windows

    def fastest_threads(self, decoder: Fast) -> tuple[float, Choice]:
        """Seconds of a token, and with how many threads."""
        alone, together = [], []
        for threads in thread_counts():
            decoder.set_threads(threads)
            began, computed = time.perf_counter(), time.process_time()
            alone.append((seconds_of_a_step(decoder), threads))
            share = (time.process_time() - computed) / (time.perf_counter() - began)
            self.was_busy |= threads == 1 and share < LEAST_SHARE
            if isinstance(decoder, CDecoder):
                together.append((seconds_of_a_step(decoder, TEXTS), threads))
        seconds, threads = min(alone)
        return seconds, Choice(decoder.name, threads, min(together)[1] if together else threads)


def thread_counts() -> list[int]:
    """Candidates: powers of two, the physical cores, all cores."""
    powers = [2**exponent for exponent in range(cores().bit_length())]
    return sorted({*powers, physical_cores(), cores()})


def seconds_of_a_step(decoder: Decoder, texts: int = 1) -> float:
    """The shortest of some steps with a cache half full, at most MEASURED_AT tokens of each text.

    Other programs make steps longer, never shorter. With a load of 9 on two cores the median took the slower backend in
    1 of 12 trials, the shortest in none.
    """
    block_size = decoder.config.block_size
    cache, count = decoder.new_cache(), max(1, min(MEASURED_AT, block_size // 2))
    decoder.prefill([[0] * count], cache)
    cache.select([0] * texts)
    tokens, taken, began = np.zeros(texts, np.int64), list[float](), time.perf_counter()
    cache.cut([count - 1] * texts)
    while len(taken) < STEPS.start or (time.perf_counter() - began < SECONDS and len(taken) < STEPS.stop):
        before = time.perf_counter()
        decoder.step(tokens, cache)
        taken.append(time.perf_counter() - before)
        if cache.lengths[0] == block_size:
            cache.cut([count - 1] * texts)
    return min(taken)


def _is_small(task: Task) -> bool:
    return SMALL * task.nbytes < memory_bytes()


def _note(task: Task) -> Path | None:
    """Where the choice for a model on this machine is kept; None where nothing can be kept."""
    machine = [platform.machine(), processor_name(), processor_features(), cores(), physical_cores()]
    code = [durable.sha256_file(SOURCE.path), *_versions()]
    try:
        folder = cache_folder() / "choices"
        folder.mkdir(exist_ok=True)
    except (Unavailable, OSError):
        return None
    return folder / f"{durable.digest([machine, code, task.digest, task.precision, sorted(task.backends)])}.json"


def _versions() -> Iterator[str]:
    for library in ("numpy", "onnxruntime"):
        try:
            yield importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            yield ""


def _remembered(note: Path | None) -> Choice | None:
    found, _ = durable.read_note(note) if note is not None else (None, "")
    if found is None or found.get("backend") not in FAST:
        return None
    threads, for_several = found.get("threads"), found.get("threads_for_several")
    if threads not in thread_counts() or for_several not in thread_counts():
        return None
    until = found.get("until")
    if until is not None and not (isinstance(until, float) and 0 <= until - time.time() <= BUSY_SECONDS):
        return None
    return Choice(found["backend"], threads, for_several)


def _remember(note: Path | None, seconds: float, choice: Choice, was_busy: bool) -> None:
    if note is None:
        return
    until = time.time() + BUSY_SECONDS if was_busy else None
    threads = {"threads": choice.threads, "threads_for_several": choice.for_several}
    found = {"backend": choice.backend, **threads, "seconds_of_a_token": seconds, "until": until}
    with contextlib.suppress(OSError):  # the next process measures again
        durable.write_note(note, found)
        by_age = sorted(note.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for old in by_age[:-KEPT_CHOICES]:
            old.unlink(missing_ok=True)
