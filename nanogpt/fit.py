"""How a training fits into memory, and the one order in which it becomes smaller. Arithmetic, no torch.

fit = Fit.of(config)
while needs(fit) > available and (smaller := fit.smaller(config.training.sequences_per_step)):
    fit = smaller
config = fit.applied_to(config)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from nanogpt.config import Config

SHORTEST_WINDOW = 64  # tokens; with less context than that a text cannot be learned from
PRECISIONS = {False: "float32", True: "half", "auto": "auto", "bfloat16": "bfloat16", "float16": "float16"}
SETTINGS = {name: setting for setting, name in PRECISIONS.items()}  # of device.mixed_precision


@dataclass(frozen=True)
class Fit:
    """How a model is computed so that it fits.

    `precision` is "float32", "bfloat16", "float16", "half" (the better of the two here) or "auto" (yet to be chosen).
    """

    micro_batch: int  # windows in one forward and backward pass
    gradient_checkpointing: bool = False
    longest_window: int | None = None  # tokens; None: model.block_size
    device: str = "auto"
    precision: str = "auto"

    @classmethod
    def of(cls, config: Config) -> Fit:
        """As `config` says."""
        device = config.device
        return cls(
            config.training.batch_size,
            device.gradient_checkpointing,
            config.context if config.context < config.model.block_size else None,
            device.type,
            PRECISIONS[device.mixed_precision],
        )

    def applied_to(self, config: Config) -> Config:
        """`config` computed like this: the same sequences in a step, in micro-batches that divide them."""
        sequences = config.training.sequences_per_step
        micro_batch = largest_divisor(sequences, at_most=self.micro_batch)
        return config.with_changes(
            {
                "training.batch_size": micro_batch,
                "training.gradient_accumulation": sequences // micro_batch,
                "device.gradient_checkpointing": self.gradient_checkpointing,
                "device.longest_window": self.longest_window,
                "device.type": self.device,
                "device.mixed_precision": SETTINGS[self.precision],
            }
        )

    def smaller(self, sequences: int | None = None, cut_windows_of: int | None = None) -> Fit | None:
        """The same training with less memory, or None when nothing is left to try.

        First half the micro-batch (a divisor of `sequences`, where they are given); at one window, gradient
        checkpointing; then, where `cut_windows_of` gives the model's block_size, half the longest window, down to
        SHORTEST_WINDOW tokens.
        """
        if (micro_batch := halved(self.micro_batch, sequences)) is not None:
            return replace(self, micro_batch=micro_batch)
        if not self.gradient_checkpointing:
            return replace(self, gradient_checkpointing=True)
        if cut_windows_of is None:
            return None
        half, odd = divmod(min(self.longest_window or cut_windows_of, cut_windows_of), 2)
        return None if odd or half < SHORTEST_WINDOW else replace(self, longest_window=half)

    @property
    def memory_rank(self) -> tuple[float, bool, int]:
        """Lower for what takes less memory, on one device in one precision."""
        return self.longest_window or math.inf, not self.gradient_checkpointing, self.micro_batch

    def __str__(self) -> str:
        """For a person: "micro-batch 4, gradient checkpointing, windows of 128 tokens"."""
        parts = [f"micro-batch {self.micro_batch}"]
        if self.gradient_checkpointing:
            parts.append("gradient checkpointing")
        if self.longest_window is not None:
            parts.append(f"windows of {self.longest_window} tokens")
        return ", ".join(parts)


def halved(micro_batch: int, sequences: int | None = None) -> int | None:
    """Half of `micro_batch`, or the next smaller divisor of `sequences`; None at one window."""
    if micro_batch <= 1:
        return None
    half = micro_batch // 2
    return half if sequences is None else largest_divisor(sequences, at_most=half)


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of `number` that is no larger than `at_most`; 1 at least."""
    if at_most >= number:
        return number
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return max((divisor for part in small for divisor in (part, number // part) if divisor <= at_most), default=1)
