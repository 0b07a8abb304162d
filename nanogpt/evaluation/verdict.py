"""Whether a model has learned anything: compared with what needs no training, in the words of a stern reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from nanogpt.units import number

UNIGRAM, FIVE_GRAM = "unigram", "5-gram"  # names of nanogpt.evaluation.baselines
Level = Literal["not learned", "undertrained", "learned"]


@dataclass(frozen=True)
class Verdict:
    """Of a model on the test split. `headline` is one sentence, without its full stop."""

    level: Level
    model: str
    headline: str

    @property
    def has_learned(self) -> bool:
        return self.level != "not learned"


def compare(name: str, bits_per_byte: float, baselines: Mapping[str, float]) -> Verdict | None:
    """The verdict on the model `name`; `baselines` are bits per byte by name. None where the two that count are
    missing."""
    unigram, five_gram = (baselines.get(simple) for simple in (UNIGRAM, FIVE_GRAM))
    if unigram is None or five_gram is None:
        return None
    figure = f"{number(bits_per_byte, 3)} bits per byte on text that it never saw"
    if not bits_per_byte < unigram:  # NaN is not either
        headline = f"{name} has not learned: {figure}; counting how often each letter occurs gives {unigram:.3f}"
        return Verdict("not learned", name, headline)
    compared = f"{figure}; counting which letter follows which four others (a 5-gram) gives {five_gram:.3f}"
    if bits_per_byte >= five_gram:
        return Verdict("undertrained", name, f"{name} is undertrained: {compared}")
    return Verdict("learned", name, f"{name} has learned: {compared}")
