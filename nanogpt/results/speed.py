"""How fast steps are, and what fits into memory (nanogpt.measure)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Rates:
    """How fast steps are, and what share of the machine that is."""

    tokens_per_second: float
    flops_per_second: float
    matmul_flops_per_second: float  # of plain matrix products in the same precision
    share_of_matmul: float
    share_of_peak: float | None  # of the rate that the maker of an accelerator names; None where none is known


@dataclass(frozen=True)
class Choice:
    """A setting that was chosen by timing it: milliseconds a step of each value, and why others were not timed."""

    setting: str
    taken: str
    milliseconds: dict[str, float]
    refused: dict[str, str]  # value -> why the device does not compute it, or not rightly

    def __str__(self) -> str:
        """Such as "attention products: 41.2 ms a step, sdpa 53.0; float16 refused: …"."""
        taken = self.milliseconds[self.taken]
        others = [f"{value} {ms:,.1f}" for value, ms in self.milliseconds.items() if value != self.taken]
        refusals = [f"; {value} refused: {why}" for value, why in self.refused.items()]
        return ", ".join([f"{self.setting} {self.taken}: {taken:,.1f} ms a step", *others]) + "".join(refusals)


@dataclass(frozen=True)
class StepSpeed(Rates):
    """A short measurement of real steps of one model."""

    parameters: int
    seconds_per_step: float
    peak_memory_bytes: int
    mixed_precision: bool | str
    precision: str
    device: str
    threads: int
    steps: int  # that were timed
    attention: Literal["auto", "sdpa", "products"] = field(default="auto", kw_only=True)
    newton_schulz: Literal["auto", "float32", "bfloat16", "float16"] = field(default="auto", kw_only=True)
    choices: list[Choice] = field(default_factory=list, kw_only=True)  # on an accelerator


@dataclass(frozen=True)
class Profile(Rates):
    """`seconds` of each part for one step; those of evaluation and checkpoint are spread over the steps between.

    The rates are of steps alone.
    """

    seconds: dict[str, float]
    parameters: int
    peak_memory_bytes: int
    device: str
    precision: str
    threads: int
    steps: int  # that were timed

    @property
    def shares(self) -> dict[str, float]:
        """Of the whole time, by part; they add up to 1."""
        whole = sum(self.seconds.values())
        return {part: seconds / whole for part, seconds in self.seconds.items()}


@dataclass(frozen=True)
class RangeTest:
    """A learning-rate range test: factors on the peak learning rates, the loss at each (nats a token), smoothed.

    `steepest` and `lowest` are factors; None where the loss never falls. `rises_again`: whether the sweep went far
    enough to see the edge.
    """

    factors: list[float]
    losses: list[float]
    smoothed: list[float]
    steepest: float | None
    lowest: float | None
    rises_again: bool

    @property
    def suggested(self) -> float | None:
        """Half way between steepest and lowest on the logarithmic axis."""
        return None if self.steepest is None or self.lowest is None else math.sqrt(self.steepest * self.lowest)


@dataclass(frozen=True)
class Rehearsal(StepSpeed):
    """The same, and what happens between the steps of a training."""

    evaluation_seconds_per_token: float
    sample_seconds: float  # of one sample
    save_seconds: float  # of one checkpoint


@dataclass(frozen=True)
class CompiledSpeed:
    """Steps in eager mode and compiled, measured in turns. `compile_seconds`: of the first compiling."""

    eager_seconds_per_step: float
    seconds_per_step: float
    compile_seconds: float
    peak_memory_bytes: int

    @property
    def share(self) -> float:
        """Of a step's time in eager mode that a compiled one takes."""
        return self.seconds_per_step / self.eager_seconds_per_step


@dataclass(frozen=True)
class MicroBatchTry:
    """`result` is "fits" or why it does not; the figures are there where it fits."""

    micro_batch: int
    result: str
    predicted_bytes: int = 0
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    repeats: int | None = None

    @property
    def fits(self) -> bool:
        return self.result == "fits"


@dataclass(frozen=True)
class FastestMicroBatch:
    """The fastest micro-batch; `kept`: it was known from before."""

    micro_batch: int
    tokens_per_second: float
    peak_memory_bytes: int  # of the process that trains, above what it takes without a model
    tried: list[MicroBatchTry]
    kept: bool
