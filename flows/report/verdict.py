"""What a run made, in the words of a stern reader: how its best model compares with what needs no training."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flows.ledger.facts import BASELINES, CLEANED, EVALUATED, Baselines, Evaluated
from flows.report.commands import longer
from flows.report.facts import ModelFacts, RunFacts, config_of, facts_of, model_of
from flows.runner.run import Run
from nanogpt.config import Config
from nanogpt.evaluation import verdict as verdicts
from nanogpt.units import counted, number

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
    found = _judged(evaluated, baselines, _model(facts, name), facts.configs.get(name))
    if found is None:
        return None
    return Verdict(found.level, name, found.headline, _command(facts, name, found.has_learned))


def missed_goal(run: Run) -> str:
    """The headline of a best model that has not learned, by the steps that are finished; "" for any other."""
    evaluated, baselines = facts_of(run, EVALUATED), facts_of(run, BASELINES)
    if evaluated is None or baselines is None:
        return ""
    found = _judged(evaluated, baselines, model_of(run, evaluated.best), config_of(run, evaluated.best))
    return found.headline if found and not found.has_learned else ""


def _judged(
    evaluated: Evaluated, baselines: Baselines, model: ModelFacts | None, config: Config | None
) -> verdicts.Verdict | None:
    """The best model, with a word on its steps where it made too few."""
    name = evaluated.best
    found = verdicts.compare(name, evaluated.models[name].test.bits_per_byte, baselines.bits_per_byte)
    enough = config.training.enough_steps if config else 0
    if found is None or model is None or model.trained is None or model.trained.step >= enough:
        return found
    steps = f"it made {counted(model.trained.step, 'step')}, and at least {enough:,} are needed"
    return replace(found, headline=f"{found.headline}; {steps}")


def _model(facts: RunFacts, name: str) -> ModelFacts | None:
    return next((model for model in facts.models if model.name == name), None)


def _command(facts: RunFacts, name: str, has_learned: bool) -> str:
    model = _model(facts, name)
    if has_learned:
        return longer(facts, model)
    enough = facts.configs[name].training.enough_steps if name in facts.configs else 0
    return longer(facts, model, LEAST_TIMES, enough)


def in_words(facts: RunFacts, bits_per_byte: float) -> str:
    """A figure for people: between how many equally likely letters a model hesitates at each one, 2**bits."""
    text = facts.of(CLEANED)
    bytes_per_letter = text.bytes / text.characters if text and text.characters else 1.0
    choices = 2 ** min(64.0, bits_per_byte * bytes_per_letter)
    return f"as unsure of each letter as if it chose among {number(choices, 1)} equally likely ones"
