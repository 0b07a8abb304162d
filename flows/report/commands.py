"""The command of a run with something changed: what a report tells a person to type next."""

from __future__ import annotations

import math
import os
import shlex

from flows.report.facts import RunFacts
from nanogpt.data import sources

OUTSIDE = ("/", "~", "..")  # what a path begins with that leads out of the checkout
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


def shareable(command: str) -> str:
    """`command` without what is one machine's: no workspace, no mirror of downloads, and of paths the last part.

    Files of the checkout keep their place in it, but for texts, which are a person's own wherever they lie.
    """
    given = shlex.split(command)
    words = [part for word in given for part in (word.split("=", 1) if word.startswith("--") else [word])]
    kept: list[str] = []
    for option, word in zip(["", *words], words, strict=False):
        if "--workspace" in (option, word):
            continue
        if option == "--set" and word.startswith("data.mirror="):
            kept.pop()
            continue
        key, equals, value = word.partition("=") if option == "--set" else ("", "", word)
        is_text = option == "--data" or key == "data.source"
        kept.append(f"{key}{equals}{sources.name_of(value) if is_text else _without_folders(value)}")
    return shlex.join(kept)


def _without_folders(value: str) -> str:
    """A setting, or a list of some, with the names alone of files outside the checkout."""
    if value.startswith("["):
        return ",".join(_without_folders(part) for part in value[1:].split(",")).join(["[", ""])
    blank = value[: len(value) - len(value.lstrip(" \"'"))]
    is_outside = value.lstrip(" \"'").startswith(OUTSIDE)
    return f"{blank}{os.path.basename(value.rstrip(os.sep))}" if is_outside else value
