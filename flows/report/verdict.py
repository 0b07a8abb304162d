"""What a run made, in the words of a stern reader: how its best model compares with what needs no training."""

from __future__ import annotations

from dataclasses import dataclass

from flows.ledger.facts import BASELINES, CLEANED, EVALUATED
from flows.report.commands import longer
from flows.report.facts import RunFacts
from nanogpt.evaluation import verdict as verdicts
from nanogpt.units import number

LEAST_TIMES = 2  # the length of a training in which nothing was learned


@dataclass(frozen=True)
class Verdict(verdicts.Verdict):
    """Of the best model. `command` gives the model a chance, or more time."""

    command: str


def verdict(facts: RunFacts) -> Verdict | None:
    """None while the best model has not been judged and compared with the baselines."""
    evaluated, baselines = facts.of(EVALUATED), facts.of(BASELINES)
    if evaluated is None or baselines is None:
        return None
    name = evaluated.best
    found = verdicts.compare(name, evaluated.models[name].test.bits_per_byte, baselines.bits_per_byte)
    if found is None:
        return None
    headline = f"{found.headline}{_too_few_steps(facts, name)}"
    return Verdict(found.level, name, headline, _command(facts, name, found.has_learned))


def _too_few_steps(facts: RunFacts, name: str) -> str:
    """Where a model made fewer than make one worth having."""
    model = next((model for model in facts.models if model.name == name), None)
    enough = facts.configs[name].training.enough_steps if name in facts.configs else 0
    if model is None or model.trained is None or model.trained.step >= enough:
        return ""
    return f"; it made {model.trained.step:,} steps, and {enough:,} make a model worth having"


def _command(facts: RunFacts, name: str, has_learned: bool) -> str:
    model = next((model for model in facts.models if model.name == name), None)
    if has_learned:
        return longer(facts, model)
    enough = facts.configs[name].training.enough_steps if name in facts.configs else 0
    return longer(facts, model, LEAST_TIMES, enough)


def in_words(facts: RunFacts, bits_per_byte: float) -> str:
    """A figure for people: between how many equally likely letters a model hesitates at each one, 2**bits."""
    text = facts.of(CLEANED)
    bytes_per_letter = text.bytes / text.characters if text and text.characters else 1.0
    choices = 2 ** min(64.0, bits_per_byte * bytes_per_letter)
    return f"as unsure of each letter as between {number(choices, 1)} equally likely ones"
