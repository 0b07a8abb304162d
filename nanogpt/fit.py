"""How a training is made to fit into memory, and the next smaller way. The samples of a step stay the same.

Torch-free: the planner of a run, its remedies and the library's own sizing all take the same steps down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from nanogpt.config import Config

SHORTEST_WINDOW = 64  # tokens; with less context than that a text cannot be learned from


@dataclass(frozen=True)
class Fit:
    """`micro_batch` sequences in a pass, blocks computed again in the backward pass or not, tokens in the longest
    window (None: whole ones), on a device, with products in a precision ("float32", "bfloat16", "float16")."""

    micro_batch: int
    gradient_checkpointing: bool = False
    longest_window: int | None = None
    device: str = "cpu"
    precision: str = "float32"

    @classmethod
    def of(cls, config: Config) -> Fit:
        """As `config` has it; mixed precision that is still open counts as float32."""
        device, asked = config.device, config.device.mixed_precision
        precision = {True: "bfloat16", False: "float32", "auto": "float32"}.get(asked, str(asked))
        return cls(
            config.training.batch_size, device.gradient_checkpointing, device.longest_window, device.type, precision
        )

    @property
    def memory_order(self) -> tuple[float, bool, int]:
        """Smaller for what takes less memory, device and precision aside."""
        return self.longest_window or math.inf, not self.gradient_checkpointing, self.micro_batch

    def smaller(self, config: Config, cut_windows: bool = True) -> Fit | None:
        """The next way down for `config`, or None: about half the micro-batch, a divisor of the step's sequences; at
        one sequence, blocks that are computed again; then, with `cut_windows`, half the longest window."""
        sequences = config.training.batch_size * config.training.gradient_accumulation
        if self.micro_batch > 1:
            sizes = range(1, self.micro_batch // 2 + 1)
            return replace(self, micro_batch=max(size for size in sizes if sequences % size == 0))
        if not self.gradient_checkpointing:
            return replace(self, gradient_checkpointing=True)
        whole = config.model.block_size
        half, odd = divmod(min(self.longest_window or whole, whole), 2)
        if not cut_windows or odd or half < SHORTEST_WINDOW:
            return None
        return replace(self, longest_window=half)

    def applied_to(self, config: Config) -> Config:
        """`config` in passes of this size; the step's sequences stay. Device and precision are left as they are."""
        sequences = config.training.batch_size * config.training.gradient_accumulation
        return config.with_changes({
            "training.batch_size": self.micro_batch,
            "training.gradient_accumulation": sequences // self.micro_batch,
            "device.gradient_checkpointing": self.gradient_checkpointing,
            "device.longest_window": self.longest_window,
        })  # fmt: skip

    def describe(self, config: Config) -> str:
        """In words, for people."""
        words = [f"micro-batches of {self.micro_batch}"]
        if self.gradient_checkpointing:
            words.append("gradient checkpointing")
        if self.longest_window is not None and self.longest_window < config.model.block_size:
            words.append(f"windows of {self.longest_window} tokens")
        return ", ".join(words)
