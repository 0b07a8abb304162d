"""A step: one thing that a run does, and all that its result depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from flows.ledger.facts import Key

F = TypeVar("F")
Json = dict[str, Any]  # nested plain values


@dataclass(frozen=True, kw_only=True)
class StepSpec(Generic[F]):
    """What the ledger knows of a step.

    `code` are patterns of files below the checkout ("nanogpt/model/**"); tests/test_declared_code.py compares them
    with what the step's work imports.
    """

    key: Key[F]
    title: str  # "Tokenise the text", shown to people
    needs: tuple[str, ...] = ()  # names of earlier steps; their OUTPUT digests count
    code: tuple[str, ...] = ()
    costly: bool = False  # a change of code alone keeps it, marked "made by older code"
    needs_at_least: Literal["all", "one", "none"] = "all"  # of `needs`, to run: a report is always made
    decides: bool = False  # might decide otherwise another time: its files are kept twice, and put back when damaged

    @property
    def name(self) -> str:
        """ "dataset.fetch": the phase, and what the step does."""
        return self.key.step

    @property
    def phase(self) -> str:
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class StepResult(Generic[F]):
    """What a step's work returns.

    `identity` is what later steps depend on; by default the files and the facts. `left_out`: why the work was not done
    this time, such as "the run is late"; its facts say what that means for what follows.
    """

    facts: F
    files: list[Path] = field(default_factory=list)  # outputs, under the workspace
    identity: Any = None
    left_out: str = ""
