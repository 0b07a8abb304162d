"""Which models a run may train: those that it was asked for, and where none of them fits, the next smaller shipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from flows.context.options import RunOptions, candidate_in, shipped_models
from flows.planning.footprint import with_vocabulary
from nanogpt.config import Config
from nanogpt.faults import UserError
from nanogpt.measure.sizes import parameters


def candidates(options: RunOptions) -> Iterator[Config]:
    """Those asked for, smallest first, then the shipped ones that are smaller than all of them, largest first."""
    yield from options.candidates
    yield from shipped_below(options)


def shipped_below(options: RunOptions) -> list[Config]:
    """The models of configs/ with fewer parameters than any that was asked for, largest first.

    Data and device are the run's, and what a person set of the training; the shape is as it is shipped.
    """
    asked = options.candidates
    smallest = min(_size(config) for config in asked)
    written = {key: asked[0].value(key) for key in options.pinned if key.startswith("training.")}
    below = []
    for path in shipped_models():
        config = candidate_in(path, options.config, [])
        if _size(config) < smallest and config.name not in options.candidate_names:
            with suppress(UserError):  # what was set for another model is impossible in this one
                below.append(config.with_changes(written))
    return sorted(below, key=_size, reverse=True)


def next_smaller(options: RunOptions, than: Config) -> Config | None:
    """The largest model of configs/ with fewer parameters than `than`, with its tokenizer; None below the smallest."""
    tokenizer = than.data.tokenizer
    shipped = [
        candidate_in(path, options.config, []).with_changes({"data.tokenizer": tokenizer}) for path in shipped_models()
    ]
    return max((config for config in shipped if _size(config) < _size(than)), key=_size, default=None)


def _size(config: Config) -> int:
    return parameters(with_vocabulary(config).model).total
