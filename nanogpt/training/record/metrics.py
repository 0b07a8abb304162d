"""The files that show what a training does: one JSON object a line, and its heartbeat; readable while it runs."""

from __future__ import annotations

import bisect
import errno
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nanogpt import durable
from nanogpt.faults import FolderLostError
from nanogpt.records import from_json, to_json
from nanogpt.results.training import Heartbeat, TrainerEvent, TrainingOutcome

Row = dict[str, Any]


class JsonLines:
    """An append-only file of JSON objects; a reader sees each row at once, and never a part of one.

    What was there at the opening and was written since is held in memory as well: the file is for readers, and what
    happens to it meanwhile is no truth.
    """

    def __init__(self, path: Path):
        """What cannot be opened is set aside as *.bad. Raises OSError (a read-only folder, a full disk)."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file, self.was_set_aside = _opened(path)
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            self._write(b"\n")  # the last row was cut by a crash: it must not swallow the next one
        self._held = bytearray(path.read_bytes())

    def append(self, row: Row) -> None:
        """Add a row; numbers that are not finite become null: JSON has none. Raises OSError, the file as before."""
        before, line = self._file.seek(0, os.SEEK_END), _lines([_finite(row)])
        try:
            self._write(line)
        except OSError:
            self._file.truncate(before)
            raise
        self._held += line

    def _write(self, line: bytes) -> None:
        while line:  # a disk that is nearly full takes a part
            line = line[self._file.write(line) :]

    def sync(self) -> None:
        """Bring all rows to the disk: a checkpoint must never lack the metrics that led to it."""
        durable.fsync_file(self._file)

    def rows(self) -> list[Row]:
        """All rows but those that a crash cut short; none that came into the file from outside since its opening."""
        return list(_rows_in(self._held))

    def mend(self) -> bool:
        """Write the file again when it is not what was written; whether that was so. Raises OSError."""
        try:
            changed = durable.read_bytes(self.path) != self._held
        except OSError:  # removed, or no longer readable
            changed = True
        if changed:
            self._replace(self._held)
        return changed

    def keep(self, wanted: Callable[[Row], bool], known: list[Row] | None = None) -> bool:
        """Drop the rows that are not `wanted`, and any that a crash cut short.

        `known`: rows that are known to have been written, from a verified checkpoint. Where those in the file are
        others, `known` takes their place, and True is returned.
        """
        found = [row for row in read_rows(self.path) if wanted(row)]
        kept = [row for row in (self.rows() if known is None else known) if wanted(row)]
        self._replace(_lines(kept))
        return kept != found

    def _replace(self, content: bytes | bytearray) -> None:
        self._file.close()
        try:
            durable.unblock(self.path)
            durable.write_bytes(self.path, bytes(content))
            self._held = bytearray(content)
        finally:
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115

    def close(self) -> None:
        """Bring all rows to the disk and let go of the file."""
        self.sync()
        self._file.close()


def _opened(path: Path) -> tuple[BinaryIO, bool]:
    """The file, held open for the training's life, and whether what was there had to be set aside."""
    if path.is_file() or not os.path.lexists(path):
        try:
            return open(path, "ab", buffering=0), False
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EIO):
                raise
    durable.set_aside(path)
    return open(path, "ab", buffering=0), True


def read_rows(path: Path) -> Iterator[Row]:
    """The whole rows of a JSON-lines file, in order; an absent file has none. What is torn, or of no step, is left out:
    one bit that flips makes another key of "step"."""
    if path.is_file():
        yield from _rows_in(path.read_bytes())


def _lines(rows: list[Row]) -> bytes:
    """A lone surrogate, of a file name that is not UTF-8, is written as JSON's own escape."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "backslashreplace")


def _rows_in(content: bytes | bytearray) -> Iterator[Row]:
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row


def read_metrics(model_folder: Path) -> tuple[list[Row], list[Row]]:
    """(train rows, eval rows) of a model's metrics.jsonl."""
    rows = list(read_rows(model_folder / "metrics.jsonl"))
    return [row for row in rows if row.get("kind") == "train"], [row for row in rows if row.get("kind") == "eval"]


def evaluations_with_tokens(train: list[Row], evaluations: list[Row]) -> list[Row]:
    """The eval rows, each with the `tokens` that had been learned from: between two train rows, in proportion."""
    known = [(row["step"], row["tokens"]) for row in train if row.get("step") and row.get("tokens")]
    return [{**row, "tokens": _tokens_at(row["step"], known)} if row.get("step") else row for row in evaluations]


def _tokens_at(step: int, known: list[tuple[int, int]]) -> int | None:
    """`known`: (step, tokens) of the rows that were logged."""
    if not known:
        return None
    place = bisect.bisect_left(known, (step, 0))
    if place == len(known):  # it has gone on since the last row
        last_step, tokens = known[-1]
        return round(tokens * step / last_step)
    (before, less), (after, more) = known[place - 1] if place else (0, 0), known[place]
    return round(less + (more - less) * (step - before) / (after - before))


def as_event(row: Row) -> TrainerEvent | None:
    """A row of events.jsonl; None for a line that cannot be read as one."""
    try:
        return from_json(TrainerEvent, row)
    except ValueError:
        return None


def read_heartbeat(model_folder: Path) -> Heartbeat | None:
    """The latest heartbeat; None without one."""
    try:
        return from_json(Heartbeat, durable.read_json(model_folder / "heartbeat"))
    except (OSError, ValueError):
        return None


def read_outcome(model_folder: Path) -> TrainingOutcome | None:
    """How the training ended; None while it has not. It is not a note: its sha256 is that of the weights."""
    try:
        return from_json(TrainingOutcome, durable.read_json(model_folder / "outcome.json"))
    except (OSError, ValueError, RecursionError):
        return None


class HeartbeatFile:
    """A small file that says that the training lives and what it does; whoever supervises it reads its time.

    Rewritten at most once a second, whole or not at all, without fsync: it says nothing that must survive. Whoever
    writes to open files would never notice that their folder is gone; the heartbeat does.
    """

    def __init__(self, path: Path, steps: int = 0):
        self.path, self.steps, self.is_estimate = path, steps, False
        self._folder = durable.identity(path.parent)
        self._next = 0.0
        self._activity = ""

    def beat(self, step: int, activity: str, **figures: Any) -> None:
        """Write `step`, `activity` and `figures` if a second has passed or the activity is another one.

        Raises OSError; FolderLostError where the folder of the beginning is no longer there.
        """
        now = time.monotonic()
        if now < self._next and activity == self._activity:
            return
        self.require_folder()
        heartbeat = Heartbeat(step, self.steps, activity, time.time(), is_estimate=self.is_estimate, **figures)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        for place in (temporary, self.path):
            durable.unblock(place)
        temporary.write_text(json.dumps(_finite(to_json(heartbeat))))
        os.replace(temporary, self.path)
        self._next, self._activity = now + 1.0, activity

    def require_folder(self) -> None:
        """Raise FolderLostError unless the folder of the beginning is still there."""
        if durable.identity(self.path.parent) != self._folder:
            raise FolderLostError(self.path.parent)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return value
