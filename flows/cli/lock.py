"""One process at a time for a run: a lock that dies with its holder, and a note of who that is."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from flows.context.paths import Paths
from nanogpt import durable
from nanogpt.faults import NO_ROOM, UserError
from nanogpt.spelling import redacted


@contextmanager
def exclusive(paths: Paths, name: str) -> Iterator[None]:
    """Hold the run's lock, which dies with the process. Raises UserError saying who holds it."""
    holder = paths.state / "holder.json"
    lock = FileLock(paths.state / "lock")
    try:
        paths.state.mkdir(parents=True, exist_ok=True)
        for file in (holder, Path(lock.lock_file)):
            durable.unblock(file)
            if file.is_symlink():  # to nothing, or to where another run would lock: ours is a file of its own
                file.unlink()
        lock.acquire(timeout=0)
        _note_holder(holder)
    except Timeout:
        raise UserError(f"run {name!r} is already running: {_describe_holder(holder)}; "
                        f"wait for it, stop it, or choose another --run NAME") from None  # fmt: skip
    except OSError as error:
        lock.release()
        raise UserError(f"--workspace: {paths.state} cannot be made or written ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()


def _note_holder(holder: Path) -> None:
    holder.unlink(missing_ok=True)  # an earlier one must not be named where the disk has no room for this one
    started = datetime.now().isoformat(timespec="seconds")
    try:
        durable.write_json(holder, {"pid": os.getpid(), "started": started, "command": redacted(shlex.join(sys.argv))})
    except OSError as error:
        if error.errno not in NO_ROOM:  # the run waits for room in its first step
            raise


def _describe_holder(holder: Path) -> str:
    try:
        record = durable.read_json(holder)
        return f"process {record['pid']}, started {record['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process holds its lock"
