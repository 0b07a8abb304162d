"""Trainings that differ in one thing, compared (nanogpt.study)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["control", "worse", "better", "no clear difference", "not finite", "not known"]
AsExpected = Literal["yes", "no", "not seen", ""]  # "": nothing was expected, or nothing is known


@dataclass(frozen=True)
class Ablation:
    """A small training of one variant with one seed. Losses are nats a token; None where it did not stay finite.

    `val_loss` is that of a model as it writes, each token predicted from those before it; `val_loss_as_trained` is the
    same but for a model that was trained to see more.
    """

    variant: str
    seed: int
    steps: int
    parameters: int
    val_loss: float | None
    val_loss_as_trained: float | None
    bits_per_byte: float | None
    curve: list[tuple[int, float]]  # step, mean training loss of the steps before it
    diverged_at: int | None  # the first step that was not finite
    seconds: float  # of the steps
    tokens_per_second: float
    device: str
    precision: str
    threads: int


@dataclass(frozen=True)
class KernelTimes:
    """Attention forward and backward over as many tokens in windows of `window`, in milliseconds; medians.

    `difference` is the largest one of an output or a gradient, as a share of the largest value there.
    """

    window: int
    tokens: int
    fused: float
    written_out: float
    difference: float


@dataclass(frozen=True)
class AblationRow:
    """A variant over its seeds, against the control with the same seeds. Losses are nats a token, validation split.

    `difference` is the mean of variant minus control, `margin` half the width of its 95 % interval over the seeds
    (Student's t); None with a single seed. A difference is clear that is larger than it, or where every loss is outside
    the 95 % prediction interval of the control's. `verdict`: "not finite" when a seed broke, "not known" with a single
    seed.
    """

    variant: str
    title: str
    shows: str
    parameters: int
    losses: list[float]
    loss: float | None
    spread: float | None  # standard deviation over the seeds
    difference: float | None
    margin: float | None
    verdict: Verdict
    as_expected: AsExpected
    seconds: float  # of a training, mean


@dataclass(frozen=True)
class AblationTable:
    """What the ablations came to. `findings`: in words, drawn from the figures."""

    control: str
    steps: int
    tokens: int  # of a training
    rows: list[AblationRow]  # the control first
    kernels: list[KernelTimes]
    findings: list[str]
    device: str
    precision: str
    missing: list[str]  # trainings that were not made: variant and seed
