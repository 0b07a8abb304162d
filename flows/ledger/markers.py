"""Marker files: one readable JSON file a step, whole or absent, and believed only if it holds what it must.

The marker of a finished step is kept twice: a step that runs again because its marker rotted may measure, or plan,
otherwise than before, and what was trained by the plan would no longer fit it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from flows.ledger.facts import Remedy
from flows.ledger.outputs import Output
from nanogpt import durable
from nanogpt.records import from_json, to_json

STARTED: Literal["started"] = "started"
FINISHED: Literal["finished"] = "finished"
FAILED: Literal["failed"] = "failed"
HISTORY_LENGTH = 20
OWN_PAST = ("history", "previous")


@dataclass(frozen=True)
class Attempt:
    """An earlier attempt at a step: when and why it ran, and how it ended."""

    started_at: str
    reason: str
    ended: str


@dataclass(frozen=True, kw_only=True)
class Marker:
    """The newest attempt at a step, with all that it depended on; what it gave is there once it has finished."""

    step: str
    title: str
    state: Literal["started", "finished", "failed"]
    reason: str
    started_at: str
    attempts: int
    settings: dict[str, Any]
    inputs: dict[str, str]
    code: dict[str, str]
    history: list[Attempt]
    versions: dict[str, str] = field(default_factory=dict)
    previous: dict[str, Any] | None = None  # the newest finished marker before this one, without its own past
    seconds: float = 0.0
    remedies: list[Remedy] = field(default_factory=list)
    commit: str | None = None
    finished_at: str = ""
    outputs: list[Output] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    output_digest: str = ""
    left_out: str = ""  # why the work of a finished step was not done
    failed_at: str = ""
    cause: str = ""

    @property
    def ended_at(self) -> str:
        """ "" while it has not ended."""
        return self.finished_at or self.failed_at


class MarkerFiles:
    """The marker files in a folder, by step name; the second copies of finished ones are in `copies` next to it."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.copies = self.folder.with_name("copies")

    def path(self, name: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", name):
            raise ValueError(f'step name "{name}": only letters, digits, "_", "-" and "." are allowed')
        return self.folder / f"{name}.json"

    def read(self, name: str) -> tuple[Marker | None, str]:
        """The marker, and what is wrong with its file: (None, "") without one, (marker, words) if the second copy is
        believed instead."""
        marker, problem = _believed(self.path(name), name)
        if marker is not None:
            return marker, ""
        copy, _ = _believed(self._copy(name), name)
        if copy is None and not problem:
            return None, ""
        return copy, f"its marker {problem or 'is missing'}"

    def write(self, marker: Marker) -> None:
        """Replace the step's marker. Raises OSError."""
        copy, note = self._copy(marker.step), to_json(marker)
        if marker.state != FINISHED:
            durable.remove(copy)
        durable.write_note(self.path(marker.step), note)
        if marker.state == FINISHED:
            durable.write_note(copy, note)

    def set_aside(self, name: str) -> None:
        """Move away a marker that cannot be believed, if there is one."""
        if os.path.lexists(self.path(name)):
            durable.set_aside(self.path(name))

    def touch(self, name: str) -> None:
        os.utime(self.path(name))

    def last_sign_of_life(self, marker: Marker) -> str:
        """When a started step was last known to be at work."""
        try:
            seconds = os.stat(self.path(marker.step)).st_mtime
        except FileNotFoundError:
            return marker.started_at
        return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")

    def _copy(self, name: str) -> Path:
        return self.copies / self.path(name).name


def history_after(marker: Marker | None) -> list[Attempt]:
    """The attempts up to and with the one in `marker`."""
    if marker is None:
        return []
    if marker.state == FINISHED:
        ended = f"finished {marker.finished_at[:19]}"
    elif marker.state == FAILED:
        ended = f"failed {marker.failed_at[:19]}: {marker.cause}"
    else:
        ended = "interrupted"
    return [*marker.history, Attempt(marker.started_at, marker.reason, ended)][-HISTORY_LENGTH:]


def last_finished(marker: Marker | None) -> Marker | None:
    """The newest finished record in `marker`, without its own past."""
    if marker is None:
        return None
    if marker.state == FINISHED:
        return replace(marker, history=[], previous=None)
    if marker.previous is None:
        return None
    try:
        return from_json(Marker, {"history": [], **marker.previous})
    except ValueError:
        return None


def as_previous(marker: Marker | None) -> dict[str, Any] | None:
    """What a new marker keeps of the newest finished one before it."""
    if (finished := last_finished(marker)) is None:
        return None
    return {key: value for key, value in to_json(finished).items() if key not in OWN_PAST}


def now() -> str:
    """Local time with its offset: `2026-11-20 23:50:12+01:00`."""
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")


def _believed(path: Path, name: str) -> tuple[Marker | None, str]:
    """The marker of a step in a file, and why it cannot be believed."""
    note, problem = durable.read_note(path)
    if note is None:
        return None, problem and f"is damaged ({problem})"
    try:
        marker = from_json(Marker, note)
    except ValueError as error:
        return None, f"is damaged ({error})"
    if marker.step != name:
        return None, f"is damaged (it is of step {marker.step!r})"
    if marker.state == FINISHED and not (marker.finished_at and marker.output_digest):
        return None, "is damaged (it does not say what it gave)"
    return marker, ""
