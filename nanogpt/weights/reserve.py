"""Room on the disk for a training's next checkpoint: asked for, and held by a file, so that a disk that others fill
still takes the last one."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from nanogpt import durable
from nanogpt.faults import NO_ROOM

SPACE_FACTOR = 1.5  # of the bytes to write: the file system's own needs, and whoever else writes meanwhile
ENOUGH = 1.25  # of what is held and need not be taken anew
PIECE = bytes(1 << 20)


class NoRoomError(OSError):
    """`needed` bytes do not fit into `folder`, which has `free`; None: it is asked."""

    def __init__(self, folder: Path, needed: int, free: int | None = None):
        free = shutil.disk_usage(folder).free if free is None else free
        message = f"a checkpoint needs {needed / 1e6:.1f} MB, free are {free / 1e6:.1f} MB"
        super().__init__(errno.ENOSPC, message, str(folder))
        self.folder, self.needed, self.free = folder, needed, free

    def __reduce__(self) -> tuple[type[NoRoomError], tuple[Path, int, int]]:
        return NoRoomError, (self.folder, self.needed, self.free)


def require(folder: Path, size: int) -> None:
    """Raise NoRoomError unless `size` bytes, and what they bring along, fit into `folder`."""
    needed = int(size * SPACE_FACTOR)
    if shutil.disk_usage(folder).free < needed:
        raise NoRoomError(folder, needed)


class Reserve:
    """A file at `path` that is nothing but room."""

    def __init__(self, path: Path):
        self.path = path
        self.is_given_up = False  # since it was taken last

    def take(self, size: int) -> None:
        """Hold room for a checkpoint of `size` bytes. Raises NoRoomError.

        A limit on the size of files (ulimit -f) may be above a checkpoint's files and below them all together: there,
        nothing is held.
        """
        self.is_given_up = False
        wanted = int(size * SPACE_FACTOR)
        if ENOUGH * size <= self._size() <= 2 * wanted:  # a checkpoint grows by the rows of its metrics
            return
        if shutil.disk_usage(self.path.parent).free + self._size() < wanted:
            raise NoRoomError(self.path.parent, wanted)  # asked first: else it would fill the disk for a moment
        try:
            durable.remove(self.path)
            with open(self.path, "xb") as file:
                _allocate(file.fileno(), wanted)
        except OSError as error:
            self.path.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoomError(self.path.parent, wanted) from error
            if error.errno not in (errno.EFBIG, errno.EOPNOTSUPP, errno.EINVAL):
                raise

    def give_up(self) -> bool:
        """Let go of what is held; whether there was something."""
        held = self._size() > 0
        durable.remove(self.path)
        self.is_given_up = self.is_given_up or held
        return held

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0


def _allocate(descriptor: int, size: int) -> None:
    """Blocks of the disk for `size` bytes of a new file."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    while size > 0:  # macOS: Python has no call for it
        size -= os.write(descriptor, PIECE[:size])


def is_no_room(error: OSError) -> bool:
    """Whether `error` says that a disk, a quota or a limit on the size of files is used up."""
    return error.errno in NO_ROOM
