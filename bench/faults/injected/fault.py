"""One fault of a process: whether it strikes now, and how often it has. Its words: sitecustomize.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass
class Place:
    """Where the victim is."""

    step: int = 0
    micro_batch: int = 0
    model: str = ""
    target: str = ""
    device: str | None = None


NOW = Place()


class Fault:
    """One fault: whether it strikes now, and how often it has."""

    def __init__(self, words: dict[str, Any]):
        self.words, self.what = words, words["what"]
        self.operator = words.get("operator", "").replace("aten::", "")
        self.at = "operator" if self.operator else words.get("at", "step")
        self.passed = self.struck = 0

    def is_of(self, process: str) -> bool:
        usual = {"pretend": "any", "compiler": "any", "replace": "autopilot"}.get(self.what, "trainer")
        named = self.words.get("process", usual)
        return named == "any" or process in ([named] if isinstance(named, str) else named)

    def strikes(self, at: str, device: Callable[[], str | None] = lambda: NOW.device) -> bool:
        """Whether all that the fault names is true at this place; counts it when so."""
        if self.at != at or not self._matches() or self.words.get("device") not in (None, device()):
            return False
        self.passed += 1
        if self.passed <= self.words.get("skip", 0):
            return False
        times = self.words.get("times", 1)
        if times is not None and self.count() >= times:
            return False
        self._count_one()
        return True

    def count(self) -> int:
        """How often it has struck."""
        counter = self.words.get("counter")
        if counter is None:
            return self.struck
        return os.path.getsize(counter) if os.path.exists(counter) else 0

    def _count_one(self) -> None:
        self.struck += 1
        if counter := self.words.get("counter"):
            descriptor = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, b"x")
            os.fsync(descriptor)
            os.close(descriptor)

    def _matches(self) -> bool:
        words, step = self.words, self.words.get("step")
        return (
            (step is None or NOW.step in ([step] if isinstance(step, int) else step))
            and NOW.step >= words.get("from_step", 0)
            and (words.get("micro_batch_above") is None or NOW.micro_batch > words["micro_batch_above"])
            and words.get("model") in (None, NOW.model)
            and words.get("target") in (None, NOW.target)
        )

    def replace(self, module: ModuleType) -> None:
        name = self.words["name"]
        if not hasattr(module, name):
            raise AttributeError(f"FAULT: {module.__name__} has no {name} any more")
        setattr(module, name, self.words["value"])
