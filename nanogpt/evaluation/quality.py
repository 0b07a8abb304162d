"""How good models are on the same text, with intervals, and whether one of them is better than the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np

from nanogpt.evaluation.baselines import LARGEST_TRAINING_TEXT, KneserNey, unigram_distribution
from nanogpt.evaluation.block_bootstrap import BlockMean, Blocks, Floats, Numbers, draws, summed
from nanogpt.evaluation.token_scores import TokenisedText, TokenScores, beginning, in_order, score, split_text
from nanogpt.evaluation.verdict import FIVE_GRAM, UNIGRAM
from nanogpt.faults import NonFiniteError, UserError
from nanogpt.model.gpt import GPT
from nanogpt.results.quality import (
    BaselineScore,
    CalibrationBin,
    Estimate,
    ModelScores,
    PositionLoss,
    ScoreComparison,
    ScoreDifference,
)
from nanogpt.tokenizers.tokenizer import Tokenizer

BINS = 10  # of probability
FEWEST_WINDOWS = 20  # for the loss by position


@dataclass(frozen=True)
class JudgedModel:
    """A model to judge, and the data folder whose split it reads; `window` and `stride` in its own tokens."""

    name: str
    model: GPT
    tokenizer: Tokenizer
    data_folder: Path
    window: int
    stride: int


def judge(
    models: Iterable[JudgedModel],
    split: str,
    device: str = "cpu",
    most_bytes: int | None = None,
    baselines: Mapping[str, BlockMean] = MappingProxyType({}),
) -> ScoreComparison:
    """Models on the beginning of a split, the whole by default, one after the other. `baselines`: the bits of simple
    models on the same bytes.

    Raises UserError, NonFiniteError; both name the model.
    """
    found, bits = list[ModelScores](), dict[str, BlockMean]()
    for judged in models:
        text = split_text(judged.data_folder, split, judged.tokenizer, judged.name)
        text = text if most_bytes is None else beginning(text, most_bytes)
        try:
            scores = score(judged.model, text.tokens, judged.window, judged.stride, device)
        except (UserError, NonFiniteError) as error:
            raise type(error)(f"{judged.name}: {error}") from error
        bits[judged.name] = bits_per_byte(text, in_order(scores)[0])
        found.append(model_scores(judged, text, scores, bits[judged.name]))
    return compare(split, found, bits, baselines)


def simple_models(train: bytes, text: bytes, language: KneserNey | None = None) -> dict[str, BlockMean]:
    """The bits of a unigram and a 5-gram of bytes on `text`. `language`: the 5-gram, where it has learned already."""
    language = language or KneserNey(train[-LARGEST_TRAINING_TEXT:])
    unigram = unigram_distribution(train)[np.frombuffer(text, dtype=np.uint8)]
    return {UNIGRAM: bits_of_bytes(unigram), FIVE_GRAM: bits_of_bytes(language.probabilities(text))}


def bits_per_byte(text: TokenisedText, nats: Floats) -> BlockMean:
    """Of a model; the first token of the text, which nothing predicts, costs the mean."""
    blocks = Blocks.of(text.bytes)
    bits = blocks.sums(text.starts, np.concatenate([[nats.mean()], nats]) / math.log(2))
    return BlockMean(bits, blocks.sizes, draws(blocks.count))


def bits_of_bytes(probabilities: Floats) -> BlockMean:
    """Of a model that gives each byte of the text this probability, (bytes,)."""
    blocks = Blocks.of(len(probabilities))
    bits = blocks.sums(np.arange(len(probabilities)), -np.log2(probabilities))
    return BlockMean(bits, blocks.sizes, draws(blocks.count))


def model_scores(judged: JudgedModel, text: TokenisedText, scores: TokenScores, bits: BlockMean) -> ModelScores:
    """Every figure of one model on `text`."""
    nats, confidence, is_right = in_order(scores)
    blocks, starts, drawn = Blocks.of(text.bytes), text.starts[1:], bits.drawn
    tokens = blocks.sums(starts, np.ones_like(nats))
    loss = BlockMean(blocks.sums(starts, nats), tokens, drawn).estimate()
    calibration = _calibration(blocks, starts, confidence, is_right, drawn)
    return ModelScores(
        model=judged.name,
        tokenizer=judged.tokenizer.name,
        parameters=judged.model.num_parameters(),
        tokens=len(nats),
        window=judged.window,
        stride=judged.stride,
        loss=loss,
        perplexity=Estimate(*(math.exp(min(value, 700.0)) for value in (loss.value, loss.low, loss.high))),
        bits_per_byte=bits.estimate(),
        accuracy=BlockMean(blocks.sums(starts, is_right), tokens, drawn).estimate(most=1.0),
        calibration_error=sum(row.share * abs(row.accuracy.value - row.confidence) for row in calibration),
        calibration=calibration,
        by_position=_by_position(scores, blocks.count),
        unknown=text.unknown,
    )


def _calibration(
    blocks: Blocks, starts: Numbers, confidence: Floats, is_right: Floats, drawn: Floats
) -> list[CalibrationBin]:
    """Bins of equal width over the probability of the first choice; empty ones are left out."""
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    found = []
    for place in np.unique(bins):
        inside = bins == place
        counts = blocks.sums(starts[inside], np.ones(inside.sum()))
        accuracy = BlockMean(blocks.sums(starts[inside], is_right[inside]), counts, drawn).estimate(most=1.0)
        found.append(CalibrationBin(float(confidence[inside].mean()), accuracy, float(inside.mean())))
    return found


def _by_position(scores: TokenScores, blocks: int) -> list[PositionLoss]:
    """Loss at positions 0, 1, 2-3, 4-7, ... of a window; none where there are too few windows to tell."""
    rows, window = scores.nats.shape
    if rows < FEWEST_WINDOWS:
        return []
    count = min(rows, blocks)
    groups = np.arange(rows) * count // rows  # windows of the same block of text together
    drawn = draws(count)
    found = list[PositionLoss]()
    before: BlockMean | None = None
    edges = [0, *(2**power for power in range(window.bit_length()) if 2**power < window), window]
    for first, end in pairwise(edges):
        nats = scores.nats[:, first:end].astype(np.float64)  # (R, end - first)
        counts = np.isfinite(nats).sum(axis=1).astype(np.float64)
        here = BlockMean(summed(groups, np.nansum(nats, axis=1), count), summed(groups, counts, count), drawn)
        found.append(PositionLoss(first, end - 1, here.estimate(), before.less(here) if before else None))
        before = here
    return found


def compare(
    split: str, models: Sequence[ModelScores], bits: Mapping[str, BlockMean], baselines: Mapping[str, BlockMean]
) -> ScoreComparison:
    """Of `models`, whose `bits` are of the same text, which is the best, or that none is."""
    order = sorted((model.model for model in models), key=lambda name: bits[name].value)
    best, sizes = order[0], bits[order[0]].sizes
    differences = [ScoreDifference(name, best, bits[name].less(bits[best])) for name in order[1:]]
    unclear = [difference.model for difference in differences if not difference.is_clear]
    return ScoreComparison(
        split=split,
        bytes=int(sizes.sum()),
        blocks=len(sizes),
        models=list(models),
        baselines=[
            BaselineScore(name, simple.estimate(), simple.less(bits[best])) for name, simple in baselines.items()
        ],
        differences=differences,
        winner=None if unclear else best,
        verdict=_verdict(best, differences, unclear),
    )


def _verdict(best: str, differences: Sequence[ScoreDifference], unclear: Sequence[str]) -> str:
    if not differences:
        return ""
    if unclear:
        names = " and ".join([best, *unclear])
        if all(is_nothing(difference.bits_per_byte) for difference in differences if difference.model in unclear):
            return f"No clear winner among {names}: they predict exactly alike."
        return f"No clear winner among {names}: the intervals of their differences hold zero."
    nearest = differences[0]
    return f"{best} is better: {nearest.model} needs {as_more(nearest.bits_per_byte)} bits per byte."


def is_nothing(estimate: Estimate) -> bool:
    """Whether a difference is none at all, as between two copies of one model."""
    return estimate.value == estimate.low == estimate.high == 0.0


def as_more(estimate: Estimate) -> str:
    """A difference before its unit: `0.069 (0.053 to 0.084) fewer`; with signs where the interval holds zero."""
    if estimate.low > 0:
        return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f}) more"
    if estimate.high < 0:
        return f"{-estimate.value:.4f} ({-estimate.high:.4f} to {-estimate.low:.4f}) fewer"
    return f"{estimate.value:+.4f} ({estimate.low:+.4f} to {estimate.high:+.4f})"
