"""How good a model is, with what is known of the noise (nanogpt.evaluation.quality)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions whose first choice had about the same probability: its mean, and how often that choice was right.

    `share`: of all predictions.
    """

    confidence: float
    accuracy: Estimate
    share: float


@dataclass(frozen=True)
class PositionLoss:
    """Nats a token at the positions `first` to `last` of a window; 0 is the token after a single one.

    `gain`: what the loss of the positions before is above it, in the same windows.
    """

    first: int
    last: int
    loss: Estimate
    gain: Estimate | None


@dataclass(frozen=True)
class ModelScores:
    """A model on one text. The intervals come from a bootstrap over blocks of the text.

    `accuracy`: how often the most probable token is the right one. `calibration_error`: by how much its probability
    is off, in the mean (Guo et al. 2017, expected calibration error).
    """

    model: str
    tokenizer: str
    parameters: int
    tokens: int
    window: int
    stride: int
    loss: Estimate  # nats a token
    perplexity: Estimate
    bits_per_byte: Estimate
    accuracy: Estimate
    calibration_error: float
    calibration: list[CalibrationBin]
    by_position: list[PositionLoss]
    unknown: int = 0  # characters of the text outside its vocabulary: one token stands for all, which is easy to guess


@dataclass(frozen=True)
class BaselineScore:
    """`difference`: its bits per byte less those of the best model, on the same blocks of the text."""

    name: str
    bits_per_byte: Estimate
    difference: Estimate


@dataclass(frozen=True)
class ScoreDifference:
    """Bits per byte of `model` less those of `best`, on the same blocks of the text."""

    model: str
    best: str
    bits_per_byte: Estimate

    @property
    def is_clear(self) -> bool:
        return self.bits_per_byte.low > 0 or self.bits_per_byte.high < 0


@dataclass(frozen=True)
class ScoreComparison:
    """Models on the same bytes of a split. `winner` is None where another may be as good; `differences` are from the
    model with the fewest bits per byte."""

    split: str
    bytes: int
    blocks: int
    models: list[ModelScores]
    baselines: list[BaselineScore]
    differences: list[ScoreDifference]
    winner: str | None
    verdict: str


@dataclass(frozen=True)
class SpanShare:
    """Of a text's spans of `characters` characters, the share that the training text holds."""

    characters: int
    share: float


@dataclass(frozen=True)
class WritingFigures:
    """What is to be seen in several texts together.

    `distinct`: different word n-grams among all, for n = 1, 2, 3 (Li et al. 2016). `self_bleu`: how like the others
    each text is, 0 to 1 (Zhu et al. 2018). `repetition`: share of word 4-grams that came before in the same text.
    `longest_copy`: characters of the longest passage, `copied`, that the training text holds.
    """

    characters: int
    coherent: int  # of the texts
    distinct: list[float]
    self_bleu: float
    repetition: float
    longest_copy: int
    copied: str
    seen: list[SpanShare]


@dataclass(frozen=True)
class WritingQuality:
    """Samples of a model, and as a reference what people wrote after the same prompts."""

    model: str
    count: int
    temperature: float
    samples: WritingFigures
    held_out: WritingFigures


@dataclass(frozen=True)
class GreedyPiece:
    """One token's text, mostly. `margin`: nats between the most probable token and the second, where it was chosen."""

    text: str
    margin: float | None


@dataclass(frozen=True)
class GreedySample:
    prompt: str
    pieces: list[GreedyPiece]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def margin_at(self, place: int) -> float | None:
        """Of the piece that holds the character at `place`; None behind the text's end."""
        end = 0
        for piece in self.pieces:
            end += len(piece.text)
            if place < end:
                return piece.margin
        return None


@dataclass(frozen=True)
class GreedySamples:
    """What a model writes when it always takes the most probable token: for later runs to be compared with."""

    model: str
    weights_digest: str
    tokens: int  # that were asked for
    samples: list[GreedySample]


@dataclass(frozen=True)
class QualityReport:
    """What `nanogpt eval` finds; `findings` say it in plain sentences. `figures`: the names of drawn ones."""

    comparison: ScoreComparison
    writing: list[WritingQuality]
    findings: list[str]
    figures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Estimate:
    """A figure, and from where to where it may lie: 95 % of bootstrap draws, or the range of repeated measurements."""

    value: float
    low: float
    high: float

    def overlaps(self, other: Estimate) -> bool:
        return self.low <= other.high and other.low <= self.high
