"""What the figures of quality and writing say, in plain sentences that follow from them by rule."""

from __future__ import annotations

from nanogpt.evaluation.quality import as_more, is_nothing
from nanogpt.evaluation.verdict import FIVE_GRAM
from nanogpt.results.quality import ModelScores, ScoreComparison, WritingFigures, WritingQuality
from nanogpt.units import percent

NOTICEABLE_ERROR = 0.02  # of probabilities: below it a figure with two digits hardly changes
MEMORISED_SPAN = 32  # characters
MEMORISED_TIMES, MEMORISED_SHARE = 3.0, 0.02  # what is copied beyond held-out text, and at least
REPETITIVE = 0.1  # above the repetition of held-out text
NARROW = 0.8  # of held-out text's different word pairs


def of_comparison(comparison: ScoreComparison) -> list[str]:
    """Which model is best, and of that one how far its probabilities and its context can be relied on."""
    best = min(comparison.models, key=lambda model: model.bits_per_byte.value)
    bits = best.bits_per_byte
    lines = [
        f"{best.model} needs {bits.value:.3f} bits per byte of the {comparison.split} text ({bits.low:.3f} to "
        f"{bits.high:.3f} with 95 % confidence); its perplexity is {best.perplexity.value:.2f} per token."
    ]
    if comparison.verdict:
        lines.append(comparison.verdict)
    lines += [
        f"Compared with {difference.best}, {difference.model} needs {as_more(difference.bits_per_byte)} bits per byte"
        f"{'' if difference.is_clear else ': not clear'}."
        for difference in comparison.differences
        if not is_nothing(difference.bits_per_byte) and (len(comparison.differences) > 1 or not difference.is_clear)
    ]
    lines += [
        f"Compared with {best.model}, counting which letter follows which four others (a 5-gram) needs "
        f"{as_more(simple.difference)} bits per byte."
        for simple in comparison.baselines
        if simple.name == FIVE_GRAM
    ]
    lines += [
        f"{model.unknown:,} characters of the text are outside the vocabulary of {model.model}, which reads all of "
        "them as one sign that is easy to guess: its figures look better than they are."
        for model in comparison.models
        if model.unknown
    ]
    return [*lines, _calibration(best), *_context(best)]


def _calibration(model: ModelScores) -> str:
    sure = sum(row.share * row.confidence for row in model.calibration)
    right = model.accuracy
    first = f"{model.model} gives its first choice a probability of {percent(sure, 1)}"
    figures = f"{first}; it is right {percent(right.value, 1)} of the time"
    if model.calibration_error < NOTICEABLE_ERROR:
        judged = "these probabilities can be believed"
    elif right.low <= sure <= right.high:
        judged = "these probabilities are off in no clear direction"
    else:
        judged = f"the model is {'too sure' if sure > right.high else 'not sure enough'}"
    return f"{figures}: {judged} (off by {100 * model.calibration_error:.1f} points in the mean)."


def _context(model: ModelScores) -> list[str]:
    if len(model.by_position) < 3 or (gain := model.by_position[-1].gain) is None:
        return []
    first, last = model.by_position[0], model.by_position[-1]
    interval = f"{gain.value:+.3f}, {gain.low:+.3f} to {gain.high:+.3f}"
    ending = f"still gains ({interval})" if gain.low > 0 else f"gains nothing that is clear ({interval})"
    helps = "Context helps" if last.loss.high < first.loss.low else "Context does not clearly help"
    return [
        f"{helps}: {first.loss.value:.2f} nats per token at the beginning of a window, {last.loss.value:.2f} from "
        f"token {last.first} on; the last doubling {ending}."
    ]


def of_writing(found: WritingQuality) -> list[str]:
    """How varied, how original and how coherent the samples are, next to what people wrote."""
    samples, people = found.samples, found.held_out
    return [
        f"{samples.coherent} of {found.count} samples of {found.model} look like the text, {people.coherent} of "
        f"{found.count} of the held-out text itself; sense is not judged.",
        _diversity(samples, people),
        _novelty(samples, people),
    ]


def _diversity(samples: WritingFigures, people: WritingFigures) -> str:
    pairs, reference = samples.distinct[1], people.distinct[1]
    if samples.repetition > people.repetition + REPETITIVE:
        judged = "the samples repeat themselves"
    elif pairs < NARROW * reference:
        judged = "the samples are less varied than the text"
    else:
        judged = "the samples are about as varied as the text"
    return (
        f"{percent(pairs)} of the samples' word pairs are different ({percent(reference)} in held-out text), likeness "
        f"to each other (self-BLEU) {samples.self_bleu:.2f} ({people.self_bleu:.2f}), {percent(samples.repetition)} "
        f"repeated within a sample ({percent(people.repetition)}): {judged}."
    )


def memorises(samples: WritingFigures, people: WritingFigures) -> bool:
    """Whether far more of the samples stands in the training text than of held-out text."""
    ours, theirs = (
        next((row.share for row in figures.seen if row.characters == MEMORISED_SPAN), 0.0)
        for figures in (samples, people)
    )
    return ours > max(MEMORISED_SHARE, MEMORISED_TIMES * theirs)


def _novelty(samples: WritingFigures, people: WritingFigures) -> str:
    shares = {row.characters: row.share for row in samples.seen}
    copied = f"the longest passage that the training text holds too has {samples.longest_copy} characters"
    share = f"{percent(shares.get(MEMORISED_SPAN, 0.0), 1)} of the spans of {MEMORISED_SPAN} characters are in it"
    judged = "the model recites" if memorises(samples, people) else "no sign of memorising"
    return f"{copied[0].upper()}{copied[1:]} ({people.longest_copy} in held-out text), {share}: {judged}."
