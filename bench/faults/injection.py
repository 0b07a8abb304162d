"""Faults that strike inside a process of a run: the environment that puts them there (injected/sitecustomize.py)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from flows.context.options import CHECKOUT

INJECTED = Path(__file__).resolve().parent / "injected"


def injecting(*faults: dict[str, Any]) -> dict[str, str]:
    """What to add to the environment of the command: Scene.run(env=injecting({"what": "abort", "step": 17}))."""
    return {"PYTHONPATH": f"{INJECTED}{os.pathsep}{CHECKOUT}", "FAULT": json.dumps(faults)}
