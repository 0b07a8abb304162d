"""What a model writes, measured: how varied it is, how much of it is copied, and whether it reads like the text.

Every figure has a reference, the same of what people wrote after the same prompts: no share of copied spans and no
number of different words says anything by itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from nanogpt.evaluation.coherence import Judge, repetition, words_of
from nanogpt.evaluation.training_spans import TrainingSpans
from nanogpt.faults import UserError
from nanogpt.inference.engine import Engine
from nanogpt.results.quality import SpanShare, WritingFigures, WritingQuality
from nanogpt.tokenizers.tokenizer import Tokenizer

CHARACTERS = 400  # of each sample, about
PROMPT_CHARACTERS = 60
TEMPERATURE = 0.8
SPANS = (4, 8, 12, 16, 24, 32, 48, 64)  # characters
LONGEST_GRAM = 4  # words, of BLEU
SMOOTHING = 0.1  # in the place of no match (Chen and Cherry 2014, method 1)


def judge_writing(name: str, engine: Engine, judge: Judge, held_out: str, count: int) -> WritingQuality:
    """`count` samples after prompts that are spread over `held_out`, next to what follows these prompts there.

    Raises UserError when `held_out` is too short for so many.
    """
    starts = prompt_starts(held_out, count)
    prompts = [held_out[start : start + PROMPT_CHARACTERS] for start in starts]
    follows = [held_out[start + PROMPT_CHARACTERS :][:CHARACTERS] for start in starts]
    tokens = tokens_for(CHARACTERS, held_out, engine.tokenizer)
    texts = engine.complete_batch(prompts, list(range(count)), temperature=TEMPERATURE, max_new_tokens=tokens)
    return WritingQuality(name, count, TEMPERATURE, measure(texts, judge), measure(follows, judge))


def most_samples(text: str) -> int:
    """How many prompts, each with what follows it, the held-out `text` has."""
    return len(text) // (PROMPT_CHARACTERS + CHARACTERS)


def prompt_starts(text: str, count: int) -> list[int]:
    """Places spread evenly over `text`, each where a line begins if one does nearby.

    Raises UserError when the text is too short for so many prompts and what follows them.
    """
    each = len(text) // count
    if each < PROMPT_CHARACTERS + CHARACTERS:
        most = most_samples(text)
        raise UserError(
            f"the held-out text has {len(text):,} characters: prompts for {count} samples, and what follows them, need "
            f"{count * (PROMPT_CHARACTERS + CHARACTERS):,}; at most {most} samples are possible"
        )
    starts = []
    for place in range(0, each * count, each):
        line = text.find("\n", place, place + each - PROMPT_CHARACTERS - CHARACTERS)
        starts.append(line + 1 if line >= 0 and place else place)
    return starts


def tokens_for(characters: int, text: str, tokenizer: Tokenizer) -> int:
    """How many tokens so many characters take, judged by the beginning of `text`."""
    start = text[:10_000]
    return math.ceil(characters * len(tokenizer.encode(start)) / len(start))


def measure(texts: Sequence[str], judge: Judge) -> WritingFigures:
    """The figures of several texts together."""
    words = [words_of(text) for text in texts]
    copied = max(judge.training.longest_in_each(texts), key=len, default="")
    return WritingFigures(
        characters=sum(map(len, texts)),
        coherent=sum(verdict.coherent for verdict in judge.judge_all(texts)),
        distinct=[distinct(words, length) for length in (1, 2, 3)],
        self_bleu=self_bleu(words),
        repetition=_mean([repetition(text) for text in words]),
        longest_copy=len(copied),
        copied=copied,
        seen=spans_seen(texts, judge.training),
    )


def spans_seen(texts: Sequence[str], training: TrainingSpans) -> list[SpanShare]:
    """Of all spans of some lengths in `texts`, the shares that the training text holds."""
    held = {length: sum(map(len, places)) for length, places in training.held_in(texts) if length in SPANS}
    spans = {length: sum(max(0, len(text) - length + 1) for text in texts) for length in SPANS}
    return [SpanShare(length, held.get(length, 0) / spans[length]) for length in SPANS if spans[length]]


def distinct(texts: Sequence[Sequence[str]], length: int) -> float:
    """Different n-grams of words over all n-grams (Li et al. 2016). More text has fewer: compare equal amounts."""
    grams = [gram for words in texts for gram in _grams(words, length)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """The mean BLEU of each text with all others as its references (Zhu et al. 2018): 1 when all are the same."""
    return _mean([bleu(words, [*texts[:place], *texts[place + 1 :]]) for place, words in enumerate(texts)])


def bleu(words: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU-4 of one text (Papineni et al. 2002), with the smoothing that sacrebleu calls `floor`; 0 for none."""
    if not words or not references:
        return 0.0
    precisions = []
    for length in range(1, min(LONGEST_GRAM, len(words)) + 1):
        found = Counter(_grams(words, length))
        allowed: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            allowed |= Counter(_grams(reference, length))
        matched = (found & allowed).total()
        precisions.append((matched or SMOOTHING) / found.total())
    nearest = min((abs(len(reference) - len(words)), len(reference)) for reference in references)[1]
    brevity = min(0.0, 1 - nearest / len(words))
    return math.exp(brevity + sum(map(math.log, precisions)) / len(precisions))


def _grams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[place : place + length]) for place in range(len(words) - length + 1)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
