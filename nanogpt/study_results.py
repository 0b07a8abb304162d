"""What studies and comparisons give back: records without torch, which figures are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

from nanogpt.results import ComponentCheck

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
