"""What a model has learned (nanogpt.study): what figures are drawn from, and what a run keeps of it."""

from __future__ import annotations

from dataclasses import dataclass

from nanogpt.results.machine import ComponentCheck
from nanogpt.results.quality import Estimate

# ---- attention; layers and heads count from 1, as on the page of nanogpt serve


@dataclass(frozen=True)
class Head:
    """What one attention head does. `entropy` is in nats, the mean over the positions of a text; the others are the
    mean weight that it gives to one place: the token before, the first token, and, on random tokens that come twice,
    the token that followed the first time (None where the window is too short for that)."""

    layer: int
    head: int
    entropy: float
    previous_token: float
    first_token: float
    induction: float | None
    role: str  # "previous token", "first token", "induction", "broad" or "mixed"

    @property
    def name(self) -> str:
        return f"layer {self.layer} head {self.head}"


@dataclass(frozen=True)
class Repetition:
    """Random tokens, `length` of them and then the same again: nats a token, the first and the second time."""

    length: int
    first: float
    second: float
    chance: float  # the weight on the place that induction looks at, of heads that look at all places evenly


@dataclass(frozen=True)
class EntropyAtStep:
    """Attention entropy of a checkpoint on the text of the study: nats, by layer and head."""

    step: int
    entropy: list[list[float]]


@dataclass(frozen=True)
class AttentionStudy:
    """`even_entropy` and `chance`: of heads that look at all places evenly; `chance` on the token before."""

    model: str
    tokens: list[str]
    heads: list[Head]
    even_entropy: float
    chance: float
    repetition: Repetition | None
    checkpoints: list[EntropyAtStep]  # of a training folder, by step; empty for others
    findings: list[str]

    @property
    def layers(self) -> int:
        return max(head.layer for head in self.heads)

    def entropies(self, layer: int) -> list[float]:
        """Of each head of a layer."""
        return [head.entropy for head in self.heads if head.layer == layer]


# ---- lens and surprise


@dataclass(frozen=True)
class Guess:
    """A token that may come next, as a person reads it, and how probable the model finds it."""

    token: str
    probability: float


@dataclass(frozen=True)
class LensLayer:
    """What the head says of the residual stream behind a layer (0: the embeddings), over a text.

    loss: nats a token against what really follows. agreement: share of places whose likeliest token is that of the last
    layer. divergence: nats, Kullback and Leibler's, of the last layer's probabilities from these.
    """

    layer: int
    loss: float
    agreement: float
    divergence: float


@dataclass(frozen=True)
class LensStudy:
    """`guesses`: the likeliest token of each layer after each of the first tokens, `[layer][place]`."""

    model: str
    tokens: list[str]
    layers: list[LensLayer]
    guesses: list[list[Guess]]
    findings: list[str]


@dataclass(frozen=True)
class SeenToken:
    """A token of a text: how little the model expected it (nats), its place among all tokens (1: the likeliest), and
    the likeliest ones there. None for the first, which nothing predicts."""

    text: str
    nats: float | None
    rank: int | None
    guesses: list[Guess]


@dataclass(frozen=True)
class SurpriseStudy:
    model: str
    tokens: list[SeenToken]
    nats: float  # a token, on average
    findings: list[str]


# ---- embeddings


@dataclass(frozen=True)
class PlacedToken:
    """A token on the map of the embeddings, with the tokens nearest to it by cosine (token, similarity)."""

    token: str
    kind: str
    x: float
    y: float
    nearest: list[tuple[str, float]]


@dataclass(frozen=True)
class EmbeddingStudy:
    """`table`: "embedding" or "head". `explained`: shares of the variance that both axes of the map show."""

    model: str
    table: str
    tokens: list[PlacedToken]  # the most frequent ones of the text, the commonest first
    explained: tuple[float, float]
    findings: list[str]


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


# ---- of a run


@dataclass(frozen=True)
class ModelStudy:
    """What was seen in one model, in sentences, and the stems of the figures that show it."""

    findings: list[str]
    figures: list[str]
