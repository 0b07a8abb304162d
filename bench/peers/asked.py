"""What the scripts next to this file are asked for on their command line, and how they time steps.

They run with the Python and in the folder of the trainer that they measure, so this imports torch alone.
"""

import json
import sys
import time
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Asked:
    """Steps of AdamW with GPT-2's architecture in some size on made-up tokens, for `seconds` after `warm_up` steps."""

    device: str
    threads: int
    precision: str  # of the products: "float32" or "bfloat16"
    seconds: float
    warm_up: int
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    vocab_size: int
    batch_size: int

    def tokens(self) -> torch.Tensor:
        """(batch_size, block_size + 1): the batch that every trainer sees again and again."""
        torch.manual_seed(1337)
        return torch.randint(self.vocab_size, (self.batch_size, self.block_size + 1))


def asked() -> Asked:
    """Of the command line; the threads are set."""
    found = Asked(**json.loads(sys.argv[1]))
    torch.set_num_threads(found.threads)
    return found


class Laps:
    """The time of each step, from the first call of lap() on."""

    def __init__(self, asked: Asked):
        self.asked, self.began, self.times = asked, time.perf_counter(), [time.perf_counter()]

    def lap(self) -> bool:
        """At the end of a step; whether one more is wanted."""
        if self.asked.device == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        steps = len(self.times) - 1 - self.asked.warm_up
        return steps < 3 or self.times[-1] - self.times[self.asked.warm_up] < self.asked.seconds

    def say(self) -> None:
        """The last line that bench.training reads: the median step and what passed before the first one was timed."""
        steps = [end - start for start, end in zip(self.times, self.times[1:], strict=False)][self.asked.warm_up :]
        warm_up = self.times[self.asked.warm_up] - self.began
        print(json.dumps({"seconds_per_step": median(steps), "steps": len(steps), "warm_up": round(warm_up, 1)}))
