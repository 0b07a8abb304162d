"""A try of the micro-batch finder, shorter than usual; a module of its own, so that its process loads nothing else."""

from typing import Any

from nanogpt.measure import batch_finder
from nanogpt.results import MicroBatchTry


def try_ten_passes(**of_a_try: Any) -> MicroBatchTry:
    """As try_step(), of at most 10 passes. After 8 the peak was within 4 % of that after 30, which took 3 times as long
    (tiny_model in bfloat16: 278.6 and 277.8 MB, 11 and 30 s of processor time)."""
    batch_finder.MOST_REPEATS = 10
    return batch_finder.try_step(**of_a_try)
