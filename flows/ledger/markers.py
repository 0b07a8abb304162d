"""Marker files: one readable JSON file a step, whole or absent, and believed only if it holds what it must.

The marker of a finished step is kept twice: a step that is done again because its marker rotted may measure, or plan,
otherwise than before, and what was trained by the plan would no longer fit to it.
"""

import os
import re
from datetime import datetime
from pathlib import Path

from flows.context import notes
from nanogpt import durable

STARTED, FINISHED, FAILED = "started", "finished", "failed"
HISTORY_LENGTH = 20

FIELDS = {
    "step": str, "title": str, "state": str, "reason": str, "started_at": str, "attempts": int,
    "settings": dict, "inputs": dict, "code": dict, "history": list,
}  # fmt: skip
FIELDS_OF_STATE = {
    STARTED: {},
    FINISHED: {"finished_at": str, "outputs": list, "facts": dict, "output_digest": str},
    FAILED: {"failed_at": str, "cause": str},
}
FIELDS_OF_OUTPUT = {"path": str, "size": int, "sha256": str}


class MarkerFiles:
    """The marker files in a folder, by step name; the second copies of finished ones are in `copies` beside it."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.copies = self.folder.with_name("copies")

    def path(self, name: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", name):
            raise ValueError(f'step name "{name}": only letters, digits, "_", "-" and "." are allowed')
        return self.folder / f"{name}.json"

    def read(self, name: str) -> tuple[dict | None, str]:
        """The marker, and what is wrong with its file: (None, "") if there is none, (marker, words) if it is the second
        copy that is believed."""
        marker, problem = _believed(self.path(name), name)
        if marker is not None:
            return marker, ""
        copy, _ = _believed(self._copy(name), name)
        if copy is None and not problem:
            return None, ""
        return copy, f"its marker {problem or 'is missing'}"

    def write(self, marker: dict) -> None:
        """Replace the step's marker. Raises OSError."""
        copy = self._copy(marker["step"])
        if marker["state"] != FINISHED:
            durable.unblock(copy)
            copy.unlink(missing_ok=True)
        notes.write(self.path(marker["step"]), marker)
        if marker["state"] == FINISHED:
            notes.write(copy, marker)

    def set_aside(self, name: str) -> None:
        """Move away a marker that cannot be believed, if there is one."""
        if os.path.lexists(self.path(name)):
            durable.set_aside(self.path(name))

    def _copy(self, name: str) -> Path:
        return self.copies / self.path(name).name

    def touch(self, name: str) -> None:
        os.utime(self.path(name))

    def last_sign_of_life(self, marker: dict) -> str:
        """When a started step was last known to be at work."""
        try:
            seconds = os.stat(self.path(marker["step"])).st_mtime
        except FileNotFoundError:
            return marker["started_at"]
        return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")


def history_after(marker: dict | None) -> list[dict]:
    """The attempts up to and with the one in `marker`: when and why each ran, and how it ended."""
    if marker is None:
        return []
    if marker["state"] == FINISHED:
        ended = f"finished {marker['finished_at'][:19]}"
    elif marker["state"] == FAILED:
        ended = f"failed {marker['failed_at'][:19]}: {marker['cause']}"
    else:
        ended = "interrupted"
    attempt = {"started_at": marker["started_at"], "reason": marker["reason"], "ended": ended}
    return [*marker["history"], attempt][-HISTORY_LENGTH:]


def last_finished(marker: dict | None) -> dict | None:
    """The newest finished record in `marker`, without its own past."""
    if marker is None or marker["state"] != FINISHED:
        return marker.get("previous") if marker else None
    return {key: value for key, value in marker.items() if key not in ("previous", "history")}


def now() -> str:
    """Local time with its offset: `2026-11-20 23:50:12+01:00`."""
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")


def _believed(path: Path, name: str) -> tuple[dict | None, str]:
    """The marker of a step in a file, and why it cannot be believed."""
    marker, problem = notes.read(path)
    if marker is not None and (wrong := _problem(marker, name)):
        return None, f"is damaged ({wrong})"
    return marker, problem and f"is damaged ({problem})"


def _problem(marker: dict, name: str) -> str | None:
    """What a marker lacks, or None."""
    if marker.get("step") != name:
        return f"it is of step {marker.get('step')!r}"
    if marker.get("state") not in tuple(FIELDS_OF_STATE):
        return f"unknown state {marker.get('state')!r}"
    if wrong := _wrongly_typed(marker, FIELDS | FIELDS_OF_STATE[marker["state"]]):
        return wrong
    for key in ("inputs", "code"):
        if not all(isinstance(value, str) for value in marker[key].values()):
            return f'"{key}" is not text throughout'
    for output in marker.get("outputs", []):
        if not isinstance(output, dict) or _wrongly_typed(output, FIELDS_OF_OUTPUT):
            return "an output lacks its path, size or sha256"
    return None


def _wrongly_typed(record: dict, fields: dict[str, type]) -> str | None:
    for key, kind in fields.items():
        if not isinstance(record.get(key), kind):
            return f'"{key}" is not {kind.__name__}'
    return None
