"""How good a model is (nanogpt.evaluation), and how fast it writes."""

from __future__ import annotations

from dataclasses import dataclass

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
