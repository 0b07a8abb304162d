"""Faults that strike inside a process of a run: the environment that puts them there (injected/sitecustomize.py).

The names of the product that faults hold on to are here and in injected/inject.py alone, so that a test notices when
one of them is gone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.context.paths import CHECKOUT

INJECTED = Path(__file__).resolve().parents[1] / "injected"

Fault = Mapping[str, Any]  # its words: injected/sitecustomize.py


@dataclass(frozen=True)
class Constant:
    """A constant of the product."""

    module: str
    name: str
    process: str = "autopilot"

    def replaced_by(self, value: object) -> Fault:
        """The fault that gives it another value in its process."""
        where = {"process": self.process, "module": self.module, "name": self.name}
        return {"what": "replace", **where, "value": value}


_SUPERVISOR, _TRAINER = "flows.supervision.supervisor", "trainer"
CONSTANTS = (
    STALL_SECONDS := Constant(_SUPERVISOR, "STALL_SECONDS"),
    GRACE_SECONDS := Constant(_SUPERVISOR, "GRACE_SECONDS"),
    DUMP_SECONDS := Constant(_SUPERVISOR, "DUMP_SECONDS"),
    PRESSURE := Constant("nanogpt.process.memory_pressure", "PRESSURE"),
    CHECK_PATIENCE := Constant("flows.phases.implementation", "PATIENCE"),
    PIPED_PROGRESS_SECONDS := Constant("flows.display.terminal", "PIPED_PROGRESS_SECONDS"),
    PR_SET_PDEATHSIG := Constant("nanogpt.training.stopping", "PR_SET_PDEATHSIG", _TRAINER),
    SPIKE_WINDOW := Constant("nanogpt.training.update.stability", "WINDOW", _TRAINER),
)
WORKER_CALLS = (
    PROVE := "nanogpt.device:prove",
    CHECK := "nanogpt.study.component_checks:run_checks",
    REHEARSE := "nanogpt.measure.rehearsal:rehearse",
    SUMMARISE := "nanogpt.evaluation.summary:summarise",
)


def injecting(*faults: Fault) -> dict[str, str]:
    """What to add to the environment of the command: Scene.run(env=injecting({"what": "abort", "step": 17}))."""
    return {"PYTHONPATH": f"{INJECTED}{os.pathsep}{CHECKOUT}", "FAULT": json.dumps(faults)}
