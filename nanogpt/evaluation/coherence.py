"""Whether a sample reads like the text it was learned from: a stated measure, with real text as its reference.

Four figures, each of a fault that samples really have. A sample is coherent when all four hold:

    known words   share of its words that occur in train       at least 0.7 of what held-out text reaches
    surprise      bits per byte under a 5-gram of train        at most 1 bit above held-out text
    repetition    share of its word 4-grams seen before in it  at most 0.5
    copying       longest run that train holds word for word   at most 100 characters, or a fifth of the sample

It judges words and spelling, loops and copying; it does not see whether sentences make sense.
"""

import re
from collections.abc import Sequence

from nanogpt.evaluation.baselines import LARGEST_TRAINING_TEXT, KneserNey
from nanogpt.evaluation.training_spans import TrainingSpans
from nanogpt.results.evaluation import CoherenceFigures, CoherenceVerdict
from nanogpt.units import percent

KNOWN_WORDS_SHARE = 0.7  # of the reference's
SURPRISE_MARGIN = 1.0  # bits per byte above the reference
LARGEST_REPETITION = 0.5
LONGEST_COPY = 100  # characters
LONGEST_COPY_SHARE = 0.2
SHORTEST_SAMPLE = 100  # characters: less says nothing
REFERENCE_LENGTH = 5_000  # characters of held-out text
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


class Judge:
    """Judges samples of models that learned from `training_text`, with `held_out_text` as the reference."""

    def __init__(self, training_text: str, held_out_text: str):
        """About a second a megabyte; of more than 8 MB the last 8 count. Raises ValueError for empty texts."""
        if not training_text or not held_out_text:
            raise ValueError("both texts must hold something")
        self._training_text = training_text[-LARGEST_TRAINING_TEXT:]
        self._vocabulary = set(words_of(self._training_text))
        self.language = KneserNey(self._training_text.encode("utf-8"))
        self.training = TrainingSpans(self._training_text)
        self.reference = self.measure(held_out_text[:REFERENCE_LENGTH])

    def judge(self, sample: str) -> CoherenceVerdict:
        """The verdict on one sample (its prompt left out)."""
        return self.judge_all([sample])[0]

    def judge_all(self, samples: Sequence[str]) -> list[CoherenceVerdict]:
        """The verdict on each of several, which is faster than one by one."""
        copied = self.training.longest_in_each(samples)
        return [self._verdict(self._measure(*pair)) for pair in zip(samples, copied, strict=True)]

    def _verdict(self, figures: CoherenceFigures) -> CoherenceVerdict:
        reference = self.reference
        reasons = []
        if figures.characters < SHORTEST_SAMPLE:
            reasons.append(f"{figures.characters} characters are too few to judge (at least {SHORTEST_SAMPLE})")
        least_known = KNOWN_WORDS_SHARE * reference.known_words
        if figures.known_words < least_known:
            reasons.append(
                f"{percent(figures.known_words)} of its words are known, at least {percent(least_known)} needed"
            )
        most_surprise = reference.surprise + SURPRISE_MARGIN
        if figures.surprise > most_surprise:
            reasons.append(f"{figures.surprise:.2f} bits per byte under the 5-gram, at most {most_surprise:.2f}")
        if figures.repetition > LARGEST_REPETITION:
            reasons.append(f"{percent(figures.repetition)} of it repeats itself, at most {percent(LARGEST_REPETITION)}")
        longest = max(LONGEST_COPY, int(LONGEST_COPY_SHARE * figures.characters))
        if figures.longest_copy > longest:
            reasons.append(f"{figures.longest_copy} characters in a row are copied from train, at most {longest}")
        return CoherenceVerdict(not reasons, reasons, figures, reference)

    def measure(self, text: str) -> CoherenceFigures:
        """The four figures of any text; a text without words has no known ones."""
        return self._measure(text, self.training.longest_in_each([text])[0])

    def _measure(self, text: str, copied: str) -> CoherenceFigures:
        words = words_of(text)
        known = sum(word in self._vocabulary for word in words)
        return CoherenceFigures(
            known_words=known / len(words) if words else 0.0,
            surprise=self.language.bits_per_byte(text.encode("utf-8")) if text else 0.0,
            repetition=repetition(words),
            longest_copy=len(copied),
            characters=len(text),
        )


def words_of(text: str) -> list[str]:
    """Its words in small letters, without numbers and punctuation."""
    return [word.lower() for word in _WORD.findall(text)]


def repetition(words: list[str]) -> float:
    """The share of word 4-grams that occurred before in the same text."""
    grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
