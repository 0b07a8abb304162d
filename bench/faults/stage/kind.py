"""What a kind of fault is.

Its function gets a Scene, a private copy of a run with the real command at hand. It inflicts the fault, starts the
command until the run is finished, and returns what it found. verdict.py then judges all kinds alike: exit code 0, the
final weights to the byte, each step once, whole files, no process left behind, other models intact.

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
from collections.abc import Callable
from dataclasses import dataclass

from bench.faults.stage.finding import Finding
from bench.faults.stage.scene import Scene


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    `template`: what the scene is a copy of (see scene.py). `exact`: False where the remedy changes how things are
    computed, so that the loss curve must be within rounding instead of the weights to the byte; None where no other run
    is like it, and the kind has compared what can be. `small`: also in the small form, which the tests run; variants of
    another kind, in place or wording, are not, nor kinds whose fault and remedy other tests inflict and see. `seconds`:
    after so long it is not survived.
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


def chosen(kinds: list[Kind], pattern: str | None, small: bool) -> list[Kind]:
    """Those whose name or group `pattern` matches: a part of it, or with * and ?."""
    asked = f"*{pattern or ''}*".lower()
    return [
        kind for kind in kinds
        if (kind.small or not small)
        and (fnmatch.fnmatch(kind.name.lower(), asked) or fnmatch.fnmatch(kind.group.lower(), asked))
    ]  # fmt: skip
