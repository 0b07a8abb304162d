"""Room on the disk: what a run can spare when there is none, the wait for more, and folders that cannot be written.

What is removed is this run's own and made again or never missed: room that a killed trainer held, halves of files,
damaged checkpoints, predecessors, checkpoints older than the newest whole one. Never best/, final/ or the state before
a cool-down, never what --fresh set aside: a person asked for that to be kept, and is told that it frees room.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flows.report.markdown import duration
from nanogpt import durable, faults

if TYPE_CHECKING:
    from flows.runner.run import Run

T = TypeVar("T")

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_LINES = 600.0  # of a wait, in the action log
LEAST = 1 << 20  # bytes; what a step without large files writes
SPACE_FACTOR = 1.5  # as nanogpt.weights.reserve wants it
MOST_DOUBLINGS = 2  # of the room that is asked for: a figure that a person can free
MOST_TIMES = 12  # that one piece of work is begun again; with more room at first
UNFINISHED = re.compile(r"^\..*\.(\d+)\.tmp$")  # as nanogpt.durable names what it writes, with its process


class Unwritable(RuntimeError):
    """A folder of the run is gone, or cannot be written: nothing can go on, and nothing can be noted there."""


def with_room(run: Run, step: str, work: Callable[[], T]) -> T:
    """The result of `work`, begun again whenever the disk takes no more and there is room again.

    Raises Unwritable for folders of the run that are gone or read-only, and else what `work` raises.
    """
    for times in range(MOST_TIMES):
        try:
            return work()
        except Exception as error:
            if faults.classify(error) != faults.DISK_FULL:
                raise
            folder = _folder_of(run, error)
            needed = getattr(error, "needed", None) or max(LEAST, 2 * largest_in(folder)) << min(times, MOST_DOUBLINGS)
            evidence = _words_of(error)
        make_room(run, step, evidence, folder, needed)  # outside: an error that is stored keeps what it was raised in
        if "File too large" in evidence:
            run.worker.close()  # a process has the limit that its parent had when it began
    return work()


def make_room(run: Run, step: str, evidence: str, folder: Path, needed: int | None = None) -> None:
    """Return once `needed` bytes can be written to `folder`: what can be spared goes, then it waits for more.

    needed: None for one more of the largest checkpoints or files that `folder` has. Time spent waiting is not the
    budget's. Raises Unwritable where nothing can be written at all.
    """
    began = time.monotonic()
    needed = needed or max(LEAST, int(SPACE_FACTOR * largest_in(folder)))
    freed = 0
    for path in spare(run):
        if has_room(folder, needed) or needed > limit_of_files():  # against which it helps nothing to remove
            break
        freed += size_of(path)
        remove(path)
    remedy = f"removed {megabytes(freed)} that this run could spare" if freed else "tried again: there is room"
    waited = 0.0
    if not has_room(folder, needed):
        waited = _wait(run, evidence, folder, needed)
        remedy = f"waited {duration(waited)} for room"
        if freed:
            remedy = f"removed {megabytes(freed)} that this run could spare, and {remedy}"
    run.remedy(
        step=step, symptom=faults.DISK_FULL, evidence=evidence, remedy=remedy,
        outcome=f"{megabytes(needed)} can be written", cost_seconds=round(time.monotonic() - began, 1), steps_lost=0,
    )  # fmt: skip


def has_room(folder: Path, needed: int) -> bool:
    """Whether `needed` bytes can be written to `folder` now, found by really reserving them: a full disk, a quota and
    a limit on the size of files (ulimit -f) all show. Raises Unwritable where nothing can be written at all."""
    probe = folder / f".room.{os.getpid()}.tmp"
    try:
        with open(probe, "wb") as file:
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


def require_folders(run: Run) -> None:
    """Raise Unwritable when the workspace is gone, or a folder of the run that is there cannot be written."""
    try:
        durable.require_kept(run.paths.state)
    except faults.FolderLostError as error:
        raise Unwritable(_why_unwritable(run.paths.workspace, error)) from error
    models = run.paths.checkpoints.glob("*/")
    for folder in [run.paths.workspace, *run.paths.own_folders(), *models]:
        if folder.is_dir():
            has_room(folder, 1)
        elif folder in (run.paths.state, run.paths.logs):
            raise Unwritable(_why_unwritable(folder, faults.FolderLostError(folder)))


def _why_unwritable(folder: Path, error: OSError) -> str:
    """In a line."""
    if isinstance(error, faults.FolderLostError) or not folder.exists():
        return f"{folder} is gone (unmounted, moved or removed); when it is back, the same command goes on"
    reason = "is on a disk that fails" if error.errno == errno.EIO else "cannot be written"
    return f"{folder} {reason} ({error.strerror}); when it can, the same command goes on"


def spare(run: Run) -> Iterator[Path]:
    """What this run can do without, the least missed first; each is looked for when its turn comes."""
    models = [path for path in sorted(run.paths.checkpoints.glob("*")) if path.is_dir()]
    for model in models:
        yield from model.glob(".room")
        yield from sorted(model.rglob(".step-*.tmp"))
        yield from sorted(model.rglob("*.bad"))
    for folder in run.paths.folders():
        yield from (path for path in sorted(folder.rglob(".*.tmp")) if _is_nobodys(path))
    yield from (model for model in models if model.name.endswith(".previous"))
    for model in models:
        if not model.name.endswith(".previous"):
            yield from older_than_the_newest_whole(model / "checkpoints")


def _is_nobodys(path: Path) -> bool:
    """Whether an unfinished file is of a process that has ended."""
    found = UNFINISHED.match(path.name)
    if found is None:
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it lives, and is somebody else's
        return False
    return False


def older_than_the_newest_whole(checkpoints: Path) -> list[Path]:
    """The checkpoints of steps in a folder before the newest one that is as it was written, oldest first."""
    steps = sorted(path for path in checkpoints.glob("step-*") if path.name[5:].isdigit())
    for place in reversed(range(len(steps))):
        if is_whole(steps[place]):
            return steps[:place]
    return []


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of `checkpoint` has the digest that its manifest tells."""
    try:
        files = durable.read_json(checkpoint / "manifest.json")["files"]
        return all(durable.sha256_file(checkpoint / name) == told["sha256"] for name, told in files.items())
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


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _wait(run: Run, evidence: str, folder: Path, needed: int) -> float:
    """Return once there is room; the seconds it took."""
    told = f"the run waits until {megabytes(needed)} can be written to {folder}; {_whats_in_the_way(folder)}"
    run.tell(f"{evidence}: {told}. Old runs are the folders of checkpoints/, data/ and exports/. This time is not the "
             f"budget's; Ctrl-C stops it", "warning")  # fmt: skip
    began = said = time.monotonic()
    with run.clock.stopped():
        while not has_room(folder, needed):
            run.pulse()
            time.sleep(SECONDS_BETWEEN_LOOKS)
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                run.log.write(f"still waiting for {megabytes(needed)} in {folder}; {_whats_in_the_way(folder)}")
    return time.monotonic() - began


def limit_of_files() -> float:
    """Of their size, in bytes (ulimit -f); infinity without one."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return float("inf") if limit == resource.RLIM_INFINITY else limit


def _whats_in_the_way(folder: Path) -> str:
    told = f"free are {megabytes(shutil.disk_usage(folder).free)}"
    limit = limit_of_files()
    if limit < float("inf"):
        told += f", and no file may have more than {megabytes(limit)} (ulimit -f)"
    return told


def _folder_of(run: Run, error: BaseException) -> Path:
    """Where there was no room: the folder that the error names, or the one of the run with the least left."""
    named = _of_chain(error, lambda cause: isinstance(cause, OSError) and cause.filename)
    folders = [folder for folder in run.paths.folders() if folder.is_dir()]
    if isinstance(named, str) and Path(named).is_relative_to(run.paths.workspace):
        folders = [parent for parent in (Path(named), *Path(named).parents) if parent.is_dir()][:1] or folders
    return min(folders, key=lambda folder: shutil.disk_usage(folder).free)


def _words_of(error: BaseException) -> str:
    told = _of_chain(error, lambda cause: isinstance(cause, OSError) and cause.errno in faults.NO_ROOM and str(cause))
    return " ".join(told.split())


def _of_chain(error: BaseException, question: Callable[[BaseException], T]) -> T | None:
    """The first answer that is not empty, of `error`, what caused it, and so on."""
    return next((answer for cause in faults.causes(error) if (answer := question(cause))), None)
