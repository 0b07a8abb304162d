"""What a run made, in the words of a stern reader: how its best model compares with what needs no training."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from flows.ledger.facts import BASELINES, CLEANED, EVALUATED, Trained
from flows.report.commands import MORE_TIME, longer, with_budget, with_option
from flows.report.facts import RunFacts
from nanogpt.evaluation import verdict as verdicts
from nanogpt.units import number


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
    command = longer(facts) if found.has_learned else command_with_a_chance(facts, name)
    return Verdict(found.level, name, found.headline, command)


def in_words(facts: RunFacts, bits_per_byte: float) -> str:
    """A figure for people: between how many equally likely letters a model hesitates at each one, 2**bits."""
    text = facts.of(CLEANED)
    bytes_per_letter = text.bytes / text.characters if text and text.characters else 1.0
    choices = 2 ** min(64.0, bits_per_byte * bytes_per_letter)
    return f"as unsure of each letter as between {number(choices, 1)} equally likely ones"


def command_with_a_chance(facts: RunFacts, name: str) -> str:
    """The run's command with the steps, or the budget, in which the model can learn something on this machine."""
    trained, enough = facts.model(name).trained, facts.configs[name].training.enough_steps
    words = shlex.split(facts.command)
    steps_are_given = "--config" in words or any(word.startswith("training.max_iters=") for word in words)
    if trained and steps_are_given and trained.reason == "max_iters":
        return with_option(facts.command, "--set", f"training.max_iters={max(enough, 10 * trained.step)}")
    return with_budget(facts, max(2 * facts.budget_seconds, _seconds_needed(facts, trained, enough)))


def _seconds_needed(facts: RunFacts, trained: Trained | None, enough: int) -> float:
    """For everything else as it was, and enough steps as slow as they were."""
    if trained is None or not trained.step:
        return MORE_TIME * facts.budget_seconds
    return facts.spent_seconds - trained.seconds + 1.5 * enough * trained.seconds / trained.step
