"""What studies and comparisons give back: records without torch, which figures are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

from nanogpt.results import ComponentCheck, Estimate

# ---- gradients


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters of one kind: of one block (`layer`, from 0), or outside the blocks (None)."""

    kind: str
    layer: int | None
    parameters: int


@dataclass(frozen=True)
class GradientStep:
    """One step. `norms` and `ratios` have one figure a group: Euclidean norm of the gradient before clipping, and norm
    of the update over norm of the weights before it; None where the weights were all zero."""

    loss: float  # nats a token
    factor: float  # the share of each peak learning rate
    gradient_norm: float  # of all groups together
    norms: list[float]
    ratios: list[float | None]


@dataclass(frozen=True)
class LayerFlow:
    """Root mean squares in one block: the residual stream behind it, and what its two halves add to the stream."""

    stream: float
    attention: float
    feedforward: float
    units: int  # of the feed-forward layer
    dead: int  # of these, those that stay silent on every token


@dataclass(frozen=True)
class Flow:
    """The residual stream from the embedding (its root mean square) up through the blocks."""

    embedded: float
    layers: list[LayerFlow]

    @property
    def units(self) -> int:
        return sum(layer.units for layer in self.layers)

    @property
    def dead(self) -> int:
        return sum(layer.dead for layer in self.layers)


@dataclass(frozen=True)
class GradientStudy:
    """`findings`: what is to be seen, in sentences."""

    model: str
    optimizer: str
    tokens_per_step: int
    groups: list[ParameterGroup]
    steps: list[GradientStep]
    before: Flow
    after: Flow
    findings: list[str]


# ---- components


@dataclass(frozen=True)
class Experiment:
    """A part of the model put to the proof: what was changed, what should happen, and what did.

    `broken`: how the part was then broken on purpose; `when_broken` are the same figures of the broken one.
    """

    title: str
    changed: str
    expected: str
    found: list[ComponentCheck]
    broken: str
    when_broken: list[ComponentCheck]

    @property
    def holds(self) -> bool:
        """The part does what it should, and the check would have noticed if it did not."""
        return all(check.passed for check in self.found) and not all(check.passed for check in self.when_broken)


# ---- trainings compared


@dataclass(frozen=True)
class SeedSpread:
    """How far trainings that differ in their seed alone come out apart: the deviation of their bits per byte, as a
    share of these. `source`: where it was measured, in words."""

    deviation: float
    runs: int
    source: str


@dataclass(frozen=True)
class ComparedRun:
    """One training. `bits_per_byte`: of its best weights on the text that all are judged by."""

    name: str
    folder: str
    parameters: int
    steps: int
    tokens: int
    seconds: float
    device: str  # "" where the training has not ended
    seed: int
    weights: str  # sha256
    bits_per_byte: Estimate


@dataclass(frozen=True)
class SettingDifference:
    """A setting that is not the same in all runs: its value in each."""

    key: str
    values: list[str]


@dataclass(frozen=True)
class RunDifference:
    """Bits per byte of `run` less those of `best`, on the same blocks of text.

    The interval of `by_text` says what another text might change. `by_seed` is how large the difference of two
    trainings that differ in their seed alone is in 95 of 100 cases. `noise` is both together.
    """

    run: str
    best: str
    by_text: Estimate
    by_seed: float
    noise: float
    same_weights: bool

    @property
    def is_clear(self) -> bool:
        return self.by_text.value > self.noise


@dataclass(frozen=True)
class RunComparison:
    """Trainings from the best to the worst. `differences`: of each but the first from the first. `findings`: what is to
    be seen, in sentences."""

    split: str
    runs: list[ComparedRun]
    settings: list[SettingDifference]
    differences: list[RunDifference]
    spread: SeedSpread
    findings: list[str]


# ---- scaling


@dataclass(frozen=True)
class ScalingPoint:
    """One training: trained parameters, tokens that it saw, what it took, and its loss at the end."""

    run: str
    parameters: int
    tokens: int
    seconds: float
    loss: float  # nats a token, on the validation split


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = floor + size * N**-size_power + data * D**-data_power, in nats a token.

    A part that the runs cannot tell is zero: `size` where all have one size, `data` where all saw as many tokens.
    """

    floor: float
    size: float
    size_power: float
    data: float
    data_power: float

    def loss(self, parameters: float, tokens: float) -> float:
        """What the law says of a training with so many parameters and tokens."""
        by_size = self.size * parameters**-self.size_power if self.size else 0.0
        by_data = self.data * tokens**-self.data_power if self.data else 0.0
        return self.floor + by_size + by_data


@dataclass(frozen=True)
class Prediction:
    """What a training of so many parameters and tokens would come to."""

    what: str
    parameters: int
    tokens: int
    seconds: float
    loss: Estimate


@dataclass(frozen=True)
class ScalingStudy:
    """`form` is the law that the runs can carry: "size and data", "data" or "size". `draws`: the law in each bootstrap
    draw. `error`: the relative deviation of the losses that the draws were made with."""

    form: str
    points: list[ScalingPoint]
    law: ScalingLaw
    draws: list[ScalingLaw]
    error: float
    parts: dict[str, Estimate]
    predictions: list[Prediction]
    findings: list[str]
