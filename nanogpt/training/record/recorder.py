"""Who records a training: the folder of its model, or nobody."""

from __future__ import annotations

from typing import Any, Protocol


class Recorder(Protocol):
    """Signs of life and events, as nanogpt.training.record.model_folder.ModelFolder takes them."""

    def beat(self, activity: str) -> None:
        """Show life; cheap enough for every pass."""

    def event(self, name: str, message: str, **facts: Any) -> None:
        """Record what happened; `facts` are for programs."""


class NoRecord:
    """Of a training that leaves nothing behind."""

    def beat(self, activity: str) -> None: ...

    def event(self, name: str, message: str, **facts: Any) -> None: ...
