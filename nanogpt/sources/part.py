"""What has arrived of a file that is being downloaded, next to where the file will be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nanogpt import durable
from nanogpt.spelling import redacted, spelled

STANDSTILL_SECONDS = 300.0  # several times what a holder of the lock waits for each of its places
NOTICE_SECONDS = 2.0  # of waiting for another run's download before a message: a whole file is found in less
Notify = Callable[[str, str], None]  # called with a fault and its remedy, in a few words each


def say_nothing(fault: str, remedy: str) -> None:
    """For callers who only want the file."""


class Unobtainable(Exception):
    """The file could not be obtained; the message says why, in one line."""


@contextmanager
def alone(
    lock_file: Path, downloaded: Path, arrived: Callable[[], int], notify: Notify = say_nothing
) -> Iterator[None]:
    """Lock what is being downloaded, because runs share their downloads. Waits while its holder makes progress, which
    `arrived` counts; one message.

    The lock ends with its holder. Raises Unobtainable when nothing has come for STANDSTILL_SECONDS.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    durable.unblock(lock_file, links=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=NOTICE_SECONDS)
    except Timeout:
        notify(f"another process is downloading {spelled(downloaded)}", "waited for it")
        _wait_for(lock, downloaded, arrived)
    try:
        yield
    finally:
        lock.release()


def _wait_for(lock: FileLock, downloaded: Path, arrived: Callable[[], int]) -> None:
    while not lock.is_locked:
        before = arrived()
        try:
            lock.acquire(timeout=STANDSTILL_SECONDS)
        except Timeout:
            if arrived() == before:
                raise Unobtainable(f"another process holds {spelled(downloaded)}, and nothing comes") from None


class Part:
    """What has arrived of the file at `path`, which has `size` bytes with that sha256."""

    def __init__(self, path: Path, sha256: str, size: int):
        self.whole, self.sha256, self.size = path, sha256, size
        self.path = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.part.json")

    def alone(self, notify: Notify = say_nothing) -> AbstractContextManager[None]:
        """alone() with this part."""
        return alone(self.path.with_name(f".{self.whole.name}.lock"), self.whole, self.arrived, notify)

    def arrived(self) -> int:
        """Bytes that are here."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def validator(self, url: str) -> str | None:
        """What `url` called the version that this is a part of, if it is from there."""
        notes = self._notes()
        validator = notes.get("validator")
        return validator if isinstance(validator, str) and notes.get("url") == redacted(url) else None

    def check(self) -> None:
        """Drop what cannot be a part of this file: too many bytes, noted as another file's, or no file at all."""
        durable.unblock(self.path, links=True)
        if self.arrived() > self.size or self._notes().get("sha256") != self.sha256:
            self.drop()

    def comes_from(self, url: str, validator: str | None) -> None:
        durable.write_json(self._note, {"url": redacted(url), "validator": validator, "sha256": self.sha256})

    def drop(self) -> None:
        for path in (self.path, self._note):
            durable.remove(path)

    def take_place(self) -> bool:
        """Move the whole file to its place if its sha256 is right, else drop it. True when it was moved."""
        if durable.sha256_file(self.path) != self.sha256:
            self.drop()
            return False
        with open(self.path, "rb") as file:
            durable.fsync_file(file)
        durable.unblock(self.whole)
        os.replace(self.path, self.whole)
        durable.fsync_folder(self.whole.parent)
        durable.remove(self._note)
        return True

    def _notes(self) -> dict[str, Any]:
        try:
            notes = durable.read_json(self._note)
        except (OSError, ValueError):
            return {}
        return notes if isinstance(notes, dict) else {}
