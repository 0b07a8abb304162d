"""What the micro-batch finder's process is asked for instead of a real try.

A module of its own: what a test module imports, torch for one, each such process would load too, for 2 s.
"""

import os
import signal
from typing import Any

from nanogpt.measure import batch_finder
from nanogpt.results.speed import MicroBatchTry

Values = dict[str, Any]


def ten_passes(config: Values, micro_batch: int, seconds: float, device: str) -> MicroBatchTry:
    """A real try, of at most 10 passes: the peak after 8 was within 4 % of that after 30 (tiny_model in bfloat16: 278.6
    and 277.8 MB, after 11 and 30 s of processor time)."""
    batch_finder.MOST_REPEATS = 10
    return batch_finder.try_step(config, micro_batch, seconds, device)


def runs_out_of_memory(config: Values, micro_batch: int, seconds: float, device: str) -> MicroBatchTry:
    if micro_batch > 2:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
    return fits_in_this_process(micro_batch)


def aborts_without_memory(config: Values, micro_batch: int, seconds: float, device: str) -> MicroBatchTry:
    if micro_batch > 2:
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n")
        os.abort()
    return fits_in_this_process(micro_batch)


def is_broken(config: Values, micro_batch: int, seconds: float, device: str) -> MicroBatchTry:
    raise ValueError("not a matter of memory")


def is_asked_to_end(config: Values, micro_batch: int, seconds: float, device: str) -> MicroBatchTry:
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("SIGTERM ends it")


def fits_in_this_process(micro_batch: int) -> MicroBatchTry:
    """Its peak memory is the number of the process."""
    speed = float(micro_batch)
    return MicroBatchTry(micro_batch, "fits", tokens_per_second=speed, peak_memory_bytes=os.getpid(), repeats=3)
