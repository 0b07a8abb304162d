"""Room on the disk: what a run can spare when there is none, and the wait for more.

What is removed is this run's own and made again or never missed: halves of files, damaged checkpoints, predecessors,
checkpoints older than the newest whole one. Nothing of another run, nothing that a person made.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nanogpt import durable

if TYPE_CHECKING:
    from flows.run import Run

SECONDS_BETWEEN_LOOKS = 2.0
LEAST = 1 << 20  # bytes; what a step without large files writes
SPACE_FACTOR = 1.5  # as nanogpt.training.checkpoint wants it
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make_room(run: Run, step: str, evidence: str, folder: Path, needed: int | None = None) -> None:
    """Return once `needed` bytes can be written to `folder`: what can be spared goes, then it waits for more.

    needed: None for one more of the largest files or checkpoints that `folder` has. Time spent waiting is not the
    budget's. Raises RuntimeError with the reason where nothing can be written at all.
    """
    began = time.monotonic()
    needed = needed or max(LEAST, int(SPACE_FACTOR * largest_in(folder)))
    freed = 0
    for path in spare(run):
        if has_room(folder, needed):
            break
        freed += size_of(path)
        remove(path)
    remedy = f"removed {megabytes(freed)} that this run could spare"
    if not has_room(folder, needed):
        _wait(run, evidence, folder, needed)
        remedy = f"{remedy}, and waited for room" if freed else "waited for room"
    run.remedy(
        step=step, symptom="disk_full", evidence=evidence, remedy=remedy,
        outcome=f"{megabytes(needed)} can be written", cost_seconds=round(time.monotonic() - began, 1), steps_lost=0,
    )  # fmt: skip


def has_room(folder: Path, needed: int) -> bool:
    """Whether `needed` bytes can be written to `folder` now, found by really reserving them: a full disk, a quota and
    a limit on the size of files (ulimit -f) all show. Raises RuntimeError where nothing can be written at all."""
    probe = folder / f".room.{os.getpid()}.tmp"
    try:
        with open(probe, "wb") as file:
            try:
                if not hasattr(os, "posix_fallocate"):  # macOS
                    return shutil.disk_usage(folder).free > needed
                os.posix_fallocate(file.fileno(), 0, needed)
                return True
            finally:
                probe.unlink()
    except OSError as error:
        if error.errno in NO_ROOM:
            return False
        raise RuntimeError(unusable(folder, error)) from error


def unusable(folder: Path, error: OSError) -> str:
    """Why nothing can be written to `folder`, in a line."""
    if not folder.exists():
        return f"{folder} is gone (unmounted, moved or removed); when it is back, the same command goes on"
    return f"{folder} cannot be written: {error.strerror}; when it can, the same command goes on"


def spare(run: Run) -> Iterator[Path]:
    """What this run can do without, the least missed first; each is looked for when its turn comes."""
    models = [path for path in sorted(run.paths.checkpoints.glob("*")) if path.is_dir()]
    for model in models:
        yield from sorted(model.rglob(".*.tmp"))
        yield from sorted(model.rglob("*.bad"))
    yield from (model for model in models if model.name.endswith(".previous"))
    for model in models:
        if not model.name.endswith(".previous"):
            yield from older_than_the_newest_whole(model / "checkpoints")


def older_than_the_newest_whole(checkpoints: Path) -> list[Path]:
    """The regular checkpoints in a folder before the newest one that is as it was written, oldest first."""
    regular = sorted(path for path in checkpoints.glob("step-*") if path.name[5:].isdigit())
    for place in reversed(range(len(regular))):
        if is_whole(regular[place]):
            return regular[:place]
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
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0


def largest_in(folder: Path) -> int:
    """Bytes of the largest checkpoint, or file, in `folder`."""
    checkpoints = [size_of(path) for path in folder.glob("checkpoints/*") if path.is_dir()]
    return max([*checkpoints, *(path.stat().st_size for path in folder.glob("*") if path.is_file())], default=0)


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def limit_of_files() -> str:
    """Of their size, where there is one ("ulimit -f"), in words."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return "" if limit == resource.RLIM_INFINITY else f"; files may have {megabytes(limit)} here (ulimit -f)"


def _wait(run: Run, evidence: str, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    told = f"free are {megabytes(free)}{limit_of_files()}. This time is not the budget's; Ctrl-C stops it."
    run.tell(f"{evidence}: the run waits until {megabytes(needed)} can be written to {folder}; {told}", "warning")
    with run.clock.stopped():
        while not has_room(folder, needed):
            run.ledger.pulse()
            time.sleep(SECONDS_BETWEEN_LOOKS)
