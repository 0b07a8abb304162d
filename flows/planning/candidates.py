"""Which models a run may train: those that it was asked for, and where none of them fits, the next smaller shipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from flows.context.options import CHECKOUT, rung_of
from flows.planning import footprint as demands
from nanogpt.config import Config
from nanogpt.faults import UserError
from nanogpt.measure.sizes import parameters

if TYPE_CHECKING:
    from flows.runner.run import Run


def candidates(run: Run) -> Iterator[Config]:
    """Those asked for, smallest first, then the shipped ones that are smaller than all of them, largest first."""
    yield from run.options.rungs
    yield from shipped_below(run)


def shipped_below(run: Run) -> list[Config]:
    """The models of configs/ with fewer parameters than any that was asked for, largest first.

    Data and device are the run's, and what a person set of the training; the shape is as it is shipped.
    """
    asked = run.options.rungs
    smallest = min(_size(rung) for rung in asked)
    written = {key: _value(asked[0], key) for key in run.options.pinned if key.startswith("training.")}
    below = []
    for path in sorted((CHECKOUT / "configs").glob("*.yaml")):
        rung = rung_of(path, run.config, [])
        if _size(rung) < smallest and rung.name not in {other.name for other in asked}:
            with suppress(UserError):  # what was set for another model is impossible in this one
                below.append(rung.with_changes(written))
    return sorted(below, key=_size, reverse=True)


def _size(rung: Config) -> int:
    return parameters(demands.with_vocabulary(rung).model).total


def _value(rung: Config, key: str):
    section, _, name = key.partition(".")
    return getattr(getattr(rung, section), name)
