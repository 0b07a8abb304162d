"""Files that a library writes by their paths, put in place whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from nanogpt import durable
from nanogpt.weights import digests


@contextlib.contextmanager
def weights_of(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """A temporary folder in `folder` for files of weights; when the context ends they take their places, durably.

    Those of an older export go first, their digests come before the new ones, and the last of `names` comes last: half
    an export is never taken for a whole one. Raises OSError with nothing of the new weights in place.
    """
    durable.remove_abandoned(folder)
    for name in reversed(names):
        durable.remove(folder / name)
    temporary = folder / f".weights.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    durable.make_parents(temporary / "x")
    try:
        with _short_writes_explained(folder):
            yield temporary
        written = [name for name in names if (temporary / name).is_file()]
        for name in written:
            with open(temporary / name, "rb+") as file:
                durable.fsync_file(file)
        digests.write(folder, {name: durable.sha256_file(temporary / name) for name in written})
        for name in written:
            os.replace(temporary / name, folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    durable.fsync_folder(folder)


@contextlib.contextmanager
def _short_writes_explained(folder: Path) -> Iterator[None]:
    """numpy, which gguf writes with, says how many bytes are missing and not why."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise OSError(errno.ENOSPC, f"the disk is full, or takes no file of that size ({error})", str(folder)) from None
