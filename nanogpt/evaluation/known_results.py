"""What nanoGPT (github.com/karpathy/nanoGPT) reaches on tiny Shakespeare's characters: figures to compare with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownResult:
    """`loss` is nats a character over windows of `window` characters of the last tenth of the text, nanoGPT's
    validation split. `seconds`: of the whole command, its own evaluations included, on `machine`."""

    title: str
    loss: float
    window: int
    steps: int
    parameters: int
    seconds: float
    machine: str
    source: str


# `python train.py config/train_shakespeare_char.py` with the README's options for a CPU. Its training steps alone took
# 37 to 46 s of the 101 on that machine, and 60 to 84 s in the races of docs/training.md, on other machines; the README
# says 1.88 in about 3 minutes on a MacBook.
NANOGPT_CPU_RECIPE = KnownResult(
    title="nanoGPT's README recipe for CPUs",
    loss=1.8857,
    window=64,
    steps=2000,
    parameters=804_096,
    seconds=101.0,
    machine="two cores of a processor that was not recorded, torch 2.13",
    source="measured for this project: the trained checkpoint over the whole split",
)
# The same without options. The loss is the best of its evaluations, each the mean of 200 random batches of 64 windows.
NANOGPT_GPU_RECIPE = KnownResult(
    title="nanoGPT's Shakespeare of characters",
    loss=1.4697,
    window=256,
    steps=5000,
    parameters=10_650_000,
    seconds=180.0,
    machine="one A100",
    source="nanoGPT's README",
)
