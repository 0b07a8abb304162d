"""What a report tells a person to type next: the run's command with something changed, or what uses its model."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
from pathlib import Path

from flows.context.command_words import budget_of
from flows.context.options import PATIENCE, SECONDS, STEPS
from flows.ledger.facts import PLANNED
from flows.report.facts import ModelFacts, RunFacts
from nanogpt.sources import own

OUTSIDE = ("/", "~", "..")  # what a path begins with that leads out of the checkout
MORE_TIME = 4  # times the budget, for a model that is still learning
ALLOWANCE = 1.5  # times the seconds that steps took, so that a busier machine can do them too


def chat(model: Path) -> str:
    """The command that talks with the model in the folder `model`."""
    return _nanogpt("chat", near(model))


def serve(model: Path) -> str:
    """The command that offers the model in the folder `model` on a page and to programs."""
    return _nanogpt("serve", near(model))


def watch(models: Path) -> str:
    """The command that shows how the run trains the models in the folder `models`."""
    return _nanogpt("watch", near(models))


def texts() -> str:
    """The command that lists the texts that can be had."""
    return _nanogpt("data", "list")


def as_here(command: str) -> str:
    """A command that was run, as a person types it here: `nanogpt` as this shell finds it, and the Python of the run.

    Another Python has no packages of the project, and no example runs with it.
    """
    program, *words = shlex.split(command)
    if program == "nanogpt":
        return _nanogpt(*words)
    return shlex.join([near(Path(sys.executable)), *words]) if program in ("python", "python3") else command


def _nanogpt(*words: str) -> str:
    """A command of the library, by the name that this shell knows it by, else by its place."""
    program = Path(sys.executable).with_name("nanogpt")
    if not program.is_file():  # the project runs from its checkout, without being installed
        return shlex.join([near(Path(sys.executable)), "-m", "nanogpt.cli", *words])
    found = shutil.which("nanogpt")
    is_known = found is not None and Path(found).samefile(program)
    return shlex.join(["nanogpt" if is_known else near(program), *words])


def near(path: Path) -> str:
    """`path` as a person types it who stands where the run was started."""
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)


def longer(facts: RunFacts, model: ModelFacts | None, times: float = MORE_TIME, least_steps: int = 0) -> str:
    """The run's command in which `model` trains `times` as long, and at least for `least_steps` steps.

    What ended its training has to change: a setting that a person made, or else the budget.
    """
    trained = model.trained if model else None
    if trained is None or not trained.step:
        return with_budget(facts, times * facts.budget_seconds)
    steps = max(math.ceil(times * trained.step), least_steps)
    seconds_per_step, others = ALLOWANCE * trained.seconds / trained.step, _other_seconds(facts)
    settings = {
        "max_iters": (STEPS, steps),
        "out of time": (SECONDS, math.ceil(steps * seconds_per_step)),
        "early stopping": (PATIENCE, 0),
    }
    key, value = settings.get(trained.reason, ("", 0))
    if key not in facts.length_settings:
        as_long = others + times * trained.seconds  # a model that stays as it is may have had a larger budget
        return with_budget(facts, max(times * facts.budget_seconds, as_long, others + least_steps * seconds_per_step))
    return with_option(with_budget(facts, others + steps * seconds_per_step), "--set", f"{key}={value}")


def with_budget(facts: RunFacts, seconds: float) -> str:
    """The run's command with a budget of at least `seconds`; as it is if it has that."""
    if seconds <= facts.budget_seconds:
        return facts.command
    return with_option(facts.command, "--budget", budget_of(seconds))


def with_option(command: str, option: str, value: str | None = None) -> str:
    """`command` with an option replaced or added; of --set, which may be given many times, that of the same key."""
    words = _separated(shlex.split(command))
    new = [option] if value is None else [option, value]
    for place, (word, following) in enumerate(zip(words, [*words[1:], ""], strict=True)):
        if word == option and (option != "--set" or _key(following) == _key(value)):
            return shlex.join([*words[:place], *new, *words[place + len(new) :]])
    return shlex.join([*words, *new])


def _separated(words: list[str]) -> list[str]:
    """`--option=value` as two words."""
    return [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]


def _key(setting: str | None) -> str:
    return (setting or "").partition("=")[0].strip()


def _other_seconds(facts: RunFacts) -> float:
    """What the plan gives to the other phases."""
    plan = facts.of(PLANNED)
    return sum(phase.planned_seconds for phase in plan.phases if phase.name != "training") if plan else 0.0


def shareable(command: str) -> str:
    """`command` without what is one machine's: no workspace, no mirror of downloads, and of paths the last part.

    Files of the checkout keep their place in it, but for texts, which are a person's own wherever they lie.
    """
    words = _separated(shlex.split(command))
    kept: list[str] = []
    for option, word in zip(["", *words], words, strict=False):
        if "--workspace" in (option, word):
            continue
        if option == "--set" and word.startswith("data.mirror="):
            kept.pop()
            continue
        key, equals, value = word.partition("=") if option == "--set" else ("", "", word)
        is_text = option == "--data" or key == "data.source"
        kept.append(f"{key}{equals}{own.name_of(value) if is_text else _without_folders(value)}")
    return shlex.join(kept)


def _without_folders(value: str) -> str:
    """A setting, or a list of some, with the names alone of files outside the checkout."""
    if value.startswith("["):
        return ",".join(_without_folders(part) for part in value[1:].split(",")).join(["[", ""])
    blank = value[: len(value) - len(value.lstrip(" \"'"))]
    is_outside = value.lstrip(" \"'").startswith(OUTSIDE)
    return f"{blank}{os.path.basename(value.rstrip(os.sep))}" if is_outside else value
