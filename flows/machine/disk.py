"""Room on the disk: what a run can spare when there is none, the wait for more, and folders that cannot be written.

What is removed is this run's own and made again or never missed: room that a killed trainer held, halves of files,
damaged checkpoints, predecessors, checkpoints older than the newest whole one. Never best/, final/ or the state before
a cool-down, never what --fresh set aside: a person asked for that to be kept, and reads that it frees room.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from flows.context.budget_clock import BudgetClock
from flows.context.journal import Journal
from flows.context.paths import Paths
from nanogpt import durable, faults
from nanogpt.units import duration

T = TypeVar("T")

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_LINES = 600.0  # of a wait, in the action log
LEAST = 1 << 20  # bytes; what a step without large files writes
SPACE_FACTOR = 1.5  # as nanogpt.weights.reserve wants it
MOST_DOUBLINGS = 2  # of the room that is asked for: a figure that a person can free
MOST_TIMES = 12  # that one piece of work is begun again; with more room at first


class Unwritable(RuntimeError):
    """A folder of the run is gone, or cannot be written: nothing can continue, and nothing can be noted there."""


class DiskSpace:
    """The disk under one run. `close_worker` ends the worker, which keeps the limits that it was started with."""

    def __init__(
        self,
        paths: Paths,
        journal: Journal,
        clock: BudgetClock,
        pulse: Callable[[], None],
        close_worker: Callable[[], None],
    ):
        self._paths, self._journal, self._clock, self._pulse = paths, journal, clock, pulse
        self._close_worker = close_worker

    def with_room(self, step: str, work: Callable[[], T]) -> T:
        """The result of `work`, begun again whenever the disk takes no more and there is room again.

        Raises Unwritable for folders of the run that are gone or read-only, and else what `work` raises.
        """
        for times in range(MOST_TIMES):
            try:
                return work()
            except Exception as error:
                if faults.classify(error) != faults.DISK_FULL:
                    raise
                folder = self._folder_of(error)
                asked: int | None = getattr(error, "needed", None)
                needed = asked or max(LEAST, 2 * largest_in(folder)) << min(times, MOST_DOUBLINGS)
                evidence = _words_of(error)
            self.make_room(step, evidence, folder, needed)  # here, where the error and what it keeps alive are gone
            if "File too large" in evidence:
                self._close_worker()
        return work()

    def make_room(self, step: str, evidence: str, folder: Path, needed: int | None = None) -> None:
        """Return once `needed` bytes can be written to `folder`: what can be spared goes, then it waits for more.

        needed: None for one more of the largest checkpoints or files that `folder` has. Waiting does not count against
        the budget. Raises Unwritable where nothing can be written at all.
        """
        began = time.monotonic()
        needed = needed or max(LEAST, int(SPACE_FACTOR * largest_in(folder)))
        freed = 0
        for path in self.spare():
            if has_room(folder, needed) or needed > limit_of_files():  # against which it helps nothing to remove
                break
            freed += size_of(path)
            remove(path)
        remedy = f"removed {megabytes(freed)} that this run could spare" if freed else "tried again: there is room"
        if not has_room(folder, needed):
            waited = f"waited {duration(self._wait(evidence, folder, needed))} for room"
            remedy = f"{remedy}, and {waited}" if freed else waited
        outcome = f"{megabytes(needed)} can be written"
        self._journal.record(step, faults.DISK_FULL, evidence, remedy, outcome, time.monotonic() - began)

    def require_folders(self) -> None:
        """Raise Unwritable when the workspace is gone, or a folder of the run that is there cannot be written."""
        try:
            durable.require_kept(self._paths.state)
        except faults.FolderLostError as error:
            raise Unwritable(_why_unwritable(self._paths.workspace, error)) from error
        models = self._paths.checkpoints.glob("*/")
        for folder in [self._paths.workspace, *self._paths.own_folders(), *models]:
            if folder.is_dir():
                has_room(folder, 1)
            elif folder in (self._paths.state, self._paths.logs):
                raise Unwritable(_why_unwritable(folder, faults.FolderLostError(folder)))

    def spare(self) -> Iterator[Path]:
        """What this run can do without, the least missed first; each is looked for when its turn comes."""
        models = [path for path in sorted(self._paths.checkpoints.glob("*")) if path.is_dir()]
        for model in models:
            yield from model.glob(".room")
            yield from sorted(model.rglob(".step-*.tmp"))
            yield from sorted(model.rglob(f"*{durable.DAMAGED}"))
        for folder in self._paths.folders():
            yield from (path for path in sorted(folder.rglob(".*.tmp")) if durable.is_abandoned(path))
        yield from (model for model in models if model.name.endswith(".previous"))
        for model in models:
            if not model.name.endswith(".previous"):
                yield from older_than_the_newest_whole(model / "checkpoints")

    def _wait(self, evidence: str, folder: Path, needed: int) -> float:
        """Return once there is room; the seconds it took."""
        self._journal.message(
            f"{evidence}: the run waits until {megabytes(needed)} can be written to {folder}; {_obstacle(folder)}. Old "
            "runs are the folders of checkpoints/, data/ and exports/. Waiting does not count against the budget; "
            "Ctrl-C stops it",
            "warning",
        )
        began = logged = time.monotonic()
        with self._clock.stopped():
            while not has_room(folder, needed):
                self._pulse()
                time.sleep(SECONDS_BETWEEN_LOOKS)
                if time.monotonic() - logged > SECONDS_BETWEEN_LINES:
                    logged = time.monotonic()
                    self._journal.log(f"still waiting for {megabytes(needed)} in {folder}; {_obstacle(folder)}")
        return time.monotonic() - began

    def _folder_of(self, error: BaseException) -> Path:
        """Where there was no room: the folder that the error names, or the one of the run with the least left."""
        named = _first_of_chain(error, lambda cause: cause.filename if isinstance(cause, OSError) else None)
        folders = [folder for folder in self._paths.folders() if folder.is_dir()]
        if isinstance(named, str) and Path(named).is_relative_to(self._paths.workspace):
            folders = [parent for parent in (Path(named), *Path(named).parents) if parent.is_dir()][:1] or folders
        return min(folders, key=lambda folder: shutil.disk_usage(folder).free)


def has_room(folder: Path, needed: int) -> bool:
    """Whether `needed` bytes can be written to `folder` now, found by really reserving them: a full disk, a quota and
    a limit on the size of files (ulimit -f) all show. Raises Unwritable where nothing can be written at all."""
    probe = folder / f".room.{os.getpid()}.tmp"
    try:
        durable.remove(probe)
        with open(probe, "xb") as file:
            try:
                if shutil.disk_usage(folder).free < needed:  # asked first: else the probe itself would fill the disk
                    return False
                if hasattr(os, "posix_fallocate"):  # not on macOS
                    os.posix_fallocate(file.fileno(), 0, needed)
                return True
            finally:
                probe.unlink()
    except OSError as error:
        if error.errno in faults.NO_ROOM:
            return False
        raise Unwritable(_why_unwritable(folder, error)) from error


def _why_unwritable(folder: Path, error: OSError) -> str:
    """In a line."""
    if isinstance(error, faults.FolderLostError) or not folder.exists():
        return f"{folder} is gone (unmounted, moved or removed); when it is back, the same command continues"
    reason = "is on a disk that fails" if error.errno == errno.EIO else "cannot be written"
    return f"{folder} {reason} ({error.strerror}); when it can, the same command continues"


def older_than_the_newest_whole(checkpoints: Path) -> list[Path]:
    """The checkpoints of steps in a folder before the newest one that is as it was written, oldest first."""
    steps = sorted(path for path in checkpoints.glob("step-*") if path.name[5:].isdigit())
    for place in reversed(range(len(steps))):
        if is_whole(steps[place]):
            return steps[:place]
    return []


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of `checkpoint` has the digest that its manifest names."""
    try:
        files = durable.read_json(checkpoint / "manifest.json")["files"]
        return all(durable.sha256_file(checkpoint / name) == facts["sha256"] for name, facts in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remove(path: Path) -> None:
    """Take away a file or a folder, whichever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
    return path.lstat().st_size if path.exists() else 0


def largest_in(folder: Path) -> int:
    """Bytes of the largest checkpoint, or file, in `folder`."""
    checkpoints = [size_of(path) for path in folder.glob("checkpoints/*") if path.is_dir()]
    files = [path.stat().st_size for path in folder.glob("*") if path.is_file() and path.name != ".room"]
    return max([*checkpoints, *files], default=0)


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def limit_of_files() -> float:
    """Of their size, in bytes (ulimit -f); infinity without one."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return float("inf") if limit == resource.RLIM_INFINITY else limit


def _obstacle(folder: Path) -> str:
    """What is in the way of writing there."""
    free = f"{megabytes(shutil.disk_usage(folder).free)} are free"
    limit = limit_of_files()
    return free if limit == float("inf") else f"{free}, and no file may have more than {megabytes(limit)} (ulimit -f)"


def _words_of(error: BaseException) -> str:
    full = _first_of_chain(
        error, lambda cause: str(cause) if isinstance(cause, OSError) and cause.errno in faults.NO_ROOM else None
    )
    return " ".join((full or str(error)).split())


def _first_of_chain(error: BaseException, question: Callable[[BaseException], T | None]) -> T | None:
    """The first answer that is not empty, of `error`, what caused it, and so on."""
    return next((answer for cause in faults.causes(error) if (answer := question(cause))), None)
