"""What a kind of fault is, what is found when it has been inflicted, and where the kinds of the campaign come from.

A module of this folder with KINDS = [Kind(...), ...] takes part by being there. Its functions get a Scene, a private
copy of a run with the real command at hand; they inflict their fault, start the command until it has gone on to the
end, and return what they found. What every survivor must show is judged afterwards, alike for all (verdict.py):
exit code 0, the final weights to the byte, each step once, whole files, no process left behind, other models intact.

    def one_bit(scene: Scene) -> Finding:
        \"""One bit of the newest checkpoint's weights is flipped.\"""      <- the table says so: how it was made
        flip_a_bit(newest_checkpoint(scene.model) / "model.safetensors")
        scene.run()
        return Finding(noticed=scene.noticed("set aside", "is not what its manifest says"),
                       remedy="the checkpoint before", steps_lost=scene.steps_lost())

    KINDS = [Kind("checkpoint, one bit flipped", "files", one_bit)]
"""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.faults.scene import Scene


class NotSurvived(Exception):
    """What a run should have withstood and did not, in words for the person who looks for the cause."""


class NotPossible(Exception):
    """What cannot be inflicted here: no root, no file system to mount, no copy of a text. Told, and no row."""


@dataclass(frozen=True)
class Finding:
    """What was seen when a fault was inflicted.

    `noticed`: the run's own words about the fault. `remedy`: what it did about it, from the row of its report; where it
    has none, for nothing was broken or a person is asked, in the kind's words, for what the kind has checked. `result`
    is filled by the verdict ("same bytes", "loss curve within 3e-07"); what a kind adds is told before it. `times`:
    how many faults there were. `seconds_lost` and `steps_lost`: more than the undisturbed run took; None lets the scene
    measure them.
    """

    noticed: str
    remedy: str
    result: str = ""
    seconds_lost: float | None = None
    steps_lost: int | None = None
    times: int = 1


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    `template`: what the scene is a copy of (see scene.py). `exact`: False where the remedy changes how things are
    computed, so that the loss curve must be within rounding instead of the weights to the byte; None where no other run
    is like it, and the kind has compared what can be. `small`: also in the small form, which the tests run; variants of
    another kind, in place or wording, are not. `seconds`: after so long it is not survived.
    """

    name: str
    group: str
    inflict: Callable[[Scene], Finding]
    small: bool = True
    template: str = "half"
    exact: bool | None = True
    seconds: float = 300.0

    @property
    def made(self) -> str:
        """How the fault is made: the first paragraph of what `inflict` says of itself."""
        return " ".join((self.inflict.__doc__ or self.name).split("\n\n")[0].split())


def all_kinds() -> list[Kind]:
    """Every kind of every module of this folder, group by group."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("__"))
    modules = [importlib.import_module(f"bench.faults.{name}") for name in names]
    kinds = [kind for module in modules for kind in getattr(module, "KINDS", [])]
    assert len({kind.name for kind in kinds}) == len(kinds), "two kinds of one name"
    return kinds


def chosen(kinds: list[Kind], pattern: str | None, small: bool) -> list[Kind]:
    """Those whose name or group `pattern` matches: a part of it, or with * and ?."""
    asked = f"*{pattern or ''}*".lower()
    return [
        kind for kind in kinds
        if (kind.small or not small)
        and (fnmatch.fnmatch(kind.name.lower(), asked) or fnmatch.fnmatch(kind.group.lower(), asked))
    ]  # fmt: skip
