"""What the library's longer works give back: records that cross from one process to another, and are kept as JSON.

Nothing here imports torch: whoever reads a result, such as the orchestrator of a run, needs none of what made it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

# ---- the machine (nanogpt.device)


@dataclass(frozen=True)
class DeviceCandidate:
    """One device that was tried: whether it computes what the CPU does in float64, and how far it was off."""

    device: str
    works: bool
    error: str | None
    max_relative_error: float | None


@dataclass(frozen=True)
class DeviceProof:
    """The device that was chosen, what it is, and what was found of the others."""

    device: str
    name: str
    torch: str
    platform: str
    memory_bytes: int
    bfloat16: bool  # multiplied in hardware
    asked: str
    warning: str  # "" when the choice is what was asked for
    candidates: list[DeviceCandidate]
    max_relative_error: float | None
    float32_flops: float  # FLOP/s of matrix products
    bfloat16_flops: float | None
    threads: int | None = None  # of a CPU


@dataclass(frozen=True)
class ComponentCheck:
    """One figure against its limit; `group` is "component" (the mathematics) or "device" (its kernels)."""

    name: str
    passed: bool
    measured: float
    limit: float
    unit: str
    explanation: str
    group: str = "component"


# ---- speed and memory (nanogpt.measure)


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


# ---- text (nanogpt.data)


@dataclass(frozen=True)
class TextSplit:
    characters: int
    bytes: int
    first_character: int


@dataclass(frozen=True)
class Reading:
    """Documents whose encoding was detected, or in which bytes were replaced."""

    encoding: str  # Python's name
    documents: int
    example: str  # the name of the first
    confidence: float | None  # the lowest; None where nothing was detected
    replaced: int  # places with bytes that were no character, each U+FFFD now


@dataclass(frozen=True)
class FateCount:
    """Documents of one fate. `examples`: where the first of them lie."""

    documents: int = 0
    characters: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FindingCount:
    """What was looked for in documents, such as e-mail addresses. `examples`: the first, unreadable on purpose."""

    documents: int = 0
    places: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DocumentFates:
    """What became of every document (nanogpt.corpus.fates), and what was found in those that passed the filters.

    fates: by nanogpt.corpus.fates.Fate; findings: by kind. crossings: near duplicates that their own digests would have
    put on the other side of the wall between training and held-out text.
    """

    fates: dict[str, FateCount] = field(default_factory=dict)
    findings: dict[str, FindingCount] = field(default_factory=dict)
    crossings: int = 0


@dataclass(frozen=True)
class TextStatistics:
    """What the cleaned text is. `most_frequent` are the twenty commonest characters with their counts."""

    documents: int
    duplicates_removed: int
    encodings: dict[str, int]
    characters: int
    bytes: int
    lines: int
    words: int
    distinct_words: int | None  # None: of a large text, where they are not counted
    alphabet: str
    most_frequent: list[tuple[str, int]]
    sha256: str
    splits: dict[str, TextSplit]
    readings: list[Reading] = field(default_factory=list, kw_only=True)
    fates: DocumentFates = field(default_factory=DocumentFates, kw_only=True)


@dataclass(frozen=True)
class TokenSplit:
    tokens: int
    bytes: int
    characters: int


@dataclass(frozen=True)
class TokenStatistics:
    """What the tokens of all splits are; `most_frequent` are the twenty commonest with their counts."""

    tokenizer: str
    vocab_size: int
    vocabulary_used: int
    tokens: int
    tokens_per_split: dict[str, int]
    bytes_per_token: float
    most_frequent: list[tuple[str, int]]
    longest_token: str
    unknown: int = field(default=0, kw_only=True)  # characters outside the vocabulary


@dataclass(frozen=True)
class TokenFrequencies:
    """How often the tokens of a data folder occur, `tokens` of them counted.

    ranks: (1 for the commonest token, how often it occurs), evenly along the logarithm of the rank. lengths: (bytes of
    a token, how many of the counted have that many); the end of a text has none. coverage: (share of the counted
    tokens, how many of the commonest make it up).
    """

    tokenizer: str
    vocab_size: int
    vocabulary_used: int
    tokens: int
    ranks: list[tuple[int, int]]
    lengths: list[tuple[int, int]]
    coverage: list[tuple[float, int]]

    @property
    def mean_bytes(self) -> float:
        """Of a token, but the end of a text."""
        return sum(size * times for size, times in self.lengths) / max(1, sum(times for _, times in self.lengths))


# ---- a training (nanogpt.training)


@dataclass(frozen=True)
class TrainingData:
    """data.json in a model's folder: what it learns from. Older versions wrote the first digest alone.

    manifest_sha256: shards.identity() of the data folder; text_sha256: of the cleaned text.
    """

    manifest_sha256: str
    text_sha256: str | None = None
    splits: dict[str, TokenSplit] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingOutcome:
    """How a training ended: status "finished" (for `reason`) or "stopped"; sha256 is of the final weights' file.

    tokens: all that were seen, those of skipped steps and of steps that a rewind took back as well; what is repeated
    after an interruption counts once.
    """

    status: str
    reason: str
    step: int
    seconds: float
    tokens: int
    best_val_loss: float | None
    best_step: int
    best_is_average: bool  # best/ has the moving average of the weights instead of the weights of its step
    skipped: int  # bad steps that were not taken
    rewinds: int  # since what computes was last changed
    final_val_loss: float | None
    sha256: str | None
    parameters: int
    tokens_per_second: float
    peak_memory_bytes: int
    device: str
    precision: str
    micro_batch: int  # windows in one forward and backward pass, at last
    context: int  # tokens in the longest window


@dataclass(frozen=True)
class TrainingFailure:
    """What outcome.json says of a training that failed: a symptom of nanogpt.faults and the error's words."""

    symptom: str
    message: str
    needed: int | None = None  # bytes of disk that there was no room for
    status: str = "failed"


# ---- how good a model is (nanogpt.evaluation)

NANOGPT_WINDOW = 64  # characters, of nanoGPT's own measure


@dataclass(frozen=True)
class Evaluation:
    """`loss` is nats a token, over `tokens` predictions in windows of `window`; `perplexity` is e**loss.

    `bits_per_byte` does not depend on the tokenizer: it is the whole split's cost over the bytes of its text, with
    the first token, which nothing predicts, charged at the mean.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    window: int


@dataclass(frozen=True)
class ModelFigures:
    """A model on the whole of two splits; `nanogpt_loss` is nanoGPT's own measure, for characters, on both together."""

    val: Evaluation
    test: Evaluation
    nanogpt_loss: float | None
    parameters: int
    tokenizer: str
    block_size: int
    peak_memory_bytes: int


@dataclass(frozen=True)
class CoherenceFigures:
    """What was measured of one text; `longest_copy` is in characters."""

    known_words: float
    surprise: float
    repetition: float
    longest_copy: int
    characters: int


@dataclass(frozen=True)
class CoherenceVerdict:
    """`reasons` names each threshold that was missed, with its figure; empty for a coherent sample."""

    coherent: bool
    reasons: list[str]
    figures: CoherenceFigures
    reference: CoherenceFigures


@dataclass(frozen=True)
class JudgedSample:
    temperature: float
    prompt: str
    text: str
    coherence: CoherenceVerdict


@dataclass(frozen=True)
class Coherence:
    """The verdict on the sample at the middle temperature; `score` and `reference` are shares of known words."""

    coherent: bool
    score: float
    limit: float
    reference: float
    figures: CoherenceFigures
    reference_figures: CoherenceFigures
    reasons: list[str]
    measure: str


@dataclass(frozen=True)
class JudgedSamples:
    prompts: list[str]
    samples: list[JudgedSample]
    coherence: Coherence


@dataclass(frozen=True)
class DecodingSpeed:
    """Batch 1 with a KV cache. At batch 1 decoding is bound by reading the weights, so `achieved_bytes_per_second`,
    weight_bytes x tokens_per_second, is what compares across machines (gpt-fast)."""

    tokens_per_second: float  # median, sampling included
    prefill_tokens_per_second: float
    prompt_tokens: int
    new_tokens: int  # that were timed
    weight_bytes: int  # read for each token
    achieved_bytes_per_second: float
    device: str
    peak_memory_bytes: int
    threads: int


@dataclass(frozen=True)
class Baseline:
    """One row of the comparison with simple models. `explanation` is one line for the report."""

    name: str
    bits_per_byte: float
    explanation: str
    seconds: float


# ---- how good a model is, with what is known of the noise (nanogpt.evaluation.quality)


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


# ---- what a model has learned (nanogpt.study)


@dataclass(frozen=True)
class ModelStudy:
    """What was seen in one model, in sentences, and the stems of the figures that show it."""

    findings: list[str]
    figures: list[str]


# ---- smaller and faster models (nanogpt.compression)


@dataclass(frozen=True)
class Estimate:
    """A figure, and from where to where it may lie: 95 % of bootstrap draws, or the range of repeated measurements."""

    value: float
    low: float
    high: float

    def overlaps(self, other: Estimate) -> bool:
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class CompressedModel:
    """One row of the table of smaller models. `difference`: its bits per byte less the original's, over the same
    windows of the test split. `speed_of`: the row whose speed was measured, where this one runs the same products."""

    name: str
    how: str
    parameters: int
    bytes: int  # of its weights in a file made for them
    bits_per_byte: Estimate
    difference: Estimate
    tokens_per_second: Estimate
    speed_of: str
    backend: str  # what decoded, when the speed was measured
    seconds: float  # that making it took
    folder: str  # "" for the original


@dataclass(frozen=True)
class CompressionTable:
    """The original and what was made of it. `smallest` and `fastest` are names of rows, None for no clear winner."""

    models: list[CompressedModel]  # the original first
    left_out: dict[str, str]  # method -> why
    smallest: str | None
    fastest: str | None
    recommendation: list[str]
    windows: int  # of the test split, that every model was judged on
    window: int
    device: str

    @property
    def original(self) -> CompressedModel:
        return self.models[0]


# ---- ablations (nanogpt.study)


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


Verdict = Literal["control", "worse", "better", "no clear difference", "not finite", "not known"]
AsExpected = Literal["yes", "no", "not seen", ""]  # "": nothing was expected, or nothing is known


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


# ---- while it trains (nanogpt.training.record)


@dataclass(frozen=True)
class Heartbeat:
    """The latest sign of life of a trainer. Figures are None until they are known."""

    step: int = 0
    max_iters: int = 0
    activity: str = ""
    time: float = 0.0  # seconds since the epoch
    seconds: float = 0.0  # of training so far
    loss: float | None = None
    val_loss: float | None = None
    tokens_per_second: float | None = None
    memory_bytes: int | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True)
class TrainerEvent:
    """A row of events.jsonl: something that happened in a training, and what was done about it."""

    event: str
    step: int
    message: str
    time: float = 0.0
    micro_batch: int | None = None  # of "out_of_memory": what it is now
    steps_lost: int = 0
    seconds_lost: float = 0.0
