"""What a run made, in the words of a stern reader: how its best model compares with what needs no training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flows.ledger.facts import BASELINES, CLEANED, EVALUATED
from flows.report.commands import longer
from flows.report.facts import RunFacts
from nanogpt.units import number

UNIGRAM, FIVE_GRAM = "unigram", "5-gram"  # names of nanogpt.evaluation.baselines
LEAST_TIMES = 2  # the length of a training in which nothing was learned
Level = Literal["not learned", "undertrained", "learned"]


@dataclass(frozen=True)
class Verdict:
    """Of the best model on the test split. `headline` is one sentence; `command` gives the model a chance, or more
    time."""

    level: Level
    model: str
    headline: str
    command: str

    @property
    def has_learned(self) -> bool:
        return self.level != "not learned"


def verdict(facts: RunFacts) -> Verdict | None:
    """None while the best model has not been judged and compared with the baselines."""
    evaluated, baselines = facts.of(EVALUATED), facts.of(BASELINES)
    if evaluated is None or baselines is None:
        return None
    unigram, five_gram = (baselines.bits_per_byte.get(name) for name in (UNIGRAM, FIVE_GRAM))
    if unigram is None or five_gram is None:
        return None
    name, ours = evaluated.best, evaluated.models[evaluated.best].test.bits_per_byte
    model = next((model for model in facts.models if model.name == name), None)
    figure = f"{number(ours, 3)} bits per byte on text that it never saw"
    if not ours < unigram:  # nor is a number that is none
        headline = f"{name} has not learned: {figure}; counting how often each letter occurs gives {unigram:.3f}"
        enough = facts.configs[name].training.enough_steps if name in facts.configs else 0
        return Verdict("not learned", name, headline, longer(facts, model, LEAST_TIMES, enough))
    if ours >= five_gram:
        headline = (
            f"{name} is undertrained: {figure}; counting which letter follows which four others (a 5-gram) gives "
            f"{five_gram:.3f}"
        )
        return Verdict("undertrained", name, headline, longer(facts, model))
    headline = f"{name} has learned: {figure}; a 5-gram gives {five_gram:.3f}"
    return Verdict("learned", name, headline, longer(facts, model))


def in_words(facts: RunFacts, bits_per_byte: float) -> str:
    """A figure for people: between how many equally likely letters a model hesitates at each one, 2**bits."""
    text = facts.of(CLEANED)
    bytes_per_letter = text.bytes / text.characters if text and text.characters else 1.0
    choices = 2 ** min(64.0, bits_per_byte * bytes_per_letter)
    return f"as unsure of each letter as between {number(choices, 1)} equally likely ones"
