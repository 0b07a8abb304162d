"""What a run made, in the words of a stern reader: how its best model compares with what needs no training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from flows.ledger.facts import BASELINES, EVALUATED
from flows.report.facts import RunFacts
from nanogpt.units import number

UNIGRAM, FIVE_GRAM = "unigram", "5-gram"  # names of nanogpt.evaluation.baselines
Level = Literal["not learned", "undertrained", "learned"]


@dataclass(frozen=True)
class Verdict:
    """`bits_per_byte` of the best model on the test split; `headline` is one sentence for report and terminal."""

    level: Level
    model: str
    bits_per_byte: float
    headline: str

    @property
    def has_learned(self) -> bool:
        return self.level != "not learned"


def verdict(facts: RunFacts) -> Verdict | None:
    """None while the best model has not been judged against the baselines."""
    evaluated, baselines = facts.of(EVALUATED), facts.of(BASELINES)
    if evaluated is None or baselines is None:
        return None
    unigram, five_gram = (baselines.bits_per_byte.get(name) for name in (UNIGRAM, FIVE_GRAM))
    if unigram is None or five_gram is None:
        return None
    name = evaluated.best
    ours = evaluated.models[name].test.bits_per_byte
    figure = f"{number(ours, 3)} bits per byte on text that it never saw"
    if not math.isfinite(ours) or ours >= unigram:
        headline = (
            f"{name} has not learned: {figure}; guessing each letter by how often it occurs, without any context, gives "
            f"{number(unigram, 3)}"
        )
        return Verdict("not learned", name, ours, headline)
    if ours >= five_gram:
        headline = (
            f"{name} is undertrained: {figure}; counting which letter follows which four others (a 5-gram), without any "
            f"training, gives {number(five_gram, 3)}"
        )
        return Verdict("undertrained", name, ours, headline)
    return Verdict("learned", name, ours, f"{name} has learned: {figure}; a 5-gram gives {number(five_gram, 3)}")
