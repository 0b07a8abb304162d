"""The command of a run with something changed: what a report tells a person to type next."""

from __future__ import annotations

import math
import shlex

from flows.report.facts import RunFacts

MORE_TIME = 4  # times the budget, for a model that is still learning


def longer(facts: RunFacts, factor: float = MORE_TIME) -> str:
    return with_budget(facts, factor * facts.budget_seconds)


def with_budget(facts: RunFacts, seconds: float) -> str:
    """The run's command with a budget of at least `seconds`, in whole minutes or hours."""
    minutes = math.ceil(seconds / 60)
    budget = f"{minutes}m" if minutes < 120 or minutes % 60 else f"{minutes // 60}h"
    return with_option(facts.command, "--budget", budget)


def with_option(command: str, *words: str) -> str:
    """`command` with an option replaced or added; --set is always added, for it may be given many times."""
    parts = shlex.split(command)
    if words[0] in parts and words[0] != "--set":
        place = parts.index(words[0])
        return shlex.join([*parts[:place], *words, *parts[place + len(words) :]])
    return shlex.join([*parts, *words])
