"""What a step left on the disk: each file's path, size and sha256, and whether it is still so."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nanogpt.durable import sha256_file

T = TypeVar("T")
R = TypeVar("R")
THREADS_FROM_BYTES = 8 << 20  # below this, starting threads costs more than hashing in one


@dataclass(frozen=True)
class Output:
    """A file as a step left it; its path is as seen from the workspace."""

    path: str
    size: int
    sha256: str


def describe(files: Iterable[Path], workspace: Path) -> list[Output]:
    """The files with size and sha256, sorted by path.

    Raises OSError for a file that cannot be read, ValueError for one outside the workspace.
    """
    paths = sorted({_within(workspace, Path(file)) for file in files})
    sizes = [path.stat().st_size for path in paths]
    digests = _map(sha256_file, paths, sum(sizes))
    return [
        Output(path.relative_to(workspace).as_posix(), size, sha256)
        for path, size, sha256 in zip(paths, sizes, digests, strict=True)
    ]


def damage(outputs: Sequence[Output], workspace: Path) -> str | None:
    """The first output that is not as described; all sizes are looked at before any file is read."""
    wrong_sizes = (_wrong_size(output, workspace) for output in outputs)
    if problem := next(filter(None, wrong_sizes), None):
        return problem
    to_read = sum(output.size for output in outputs)
    return next(filter(None, _map(lambda output: _wrong_bytes(output, workspace), outputs, to_read)), None)


def _within(workspace: Path, file: Path) -> Path:
    absolute = Path(os.path.abspath(workspace / file))
    path = Path(os.path.realpath(absolute.parent)) / absolute.name  # the file itself may be a link to elsewhere
    if not path.is_relative_to(workspace):
        raise ValueError(f"{file} is not under the workspace {workspace}")
    return path


def _wrong_size(output: Output, workspace: Path) -> str | None:
    path = output.path
    try:
        if (workspace / path).is_dir():
            return f"{path} is a folder, not a file"
        if not (workspace / path).is_file() and (workspace / path).exists():
            return f"{path} is not a plain file"
        excess = (workspace / path).stat().st_size - output.size
    except (FileNotFoundError, NotADirectoryError):
        return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    if excess == 0:
        return None
    unit = "byte" if abs(excess) == 1 else "bytes"
    return f"{path} is {abs(excess):,} {unit} {'short' if excess < 0 else 'longer'}"


def _wrong_bytes(output: Output, workspace: Path) -> str | None:
    try:
        same = sha256_file(workspace / output.path) == output.sha256
    except OSError as error:
        return f"{output.path} cannot be read ({error.strerror})"
    return None if same else f"{output.path} changed (sha256 differs)"


def _map(function: Callable[[T], R], items: Sequence[T], to_read: int) -> Iterable[R]:
    """`function` of each item, in order; several at once when there are many bytes to read."""
    if to_read < THREADS_FROM_BYTES or len(items) < 2:
        return map(function, items)
    from concurrent.futures import ThreadPoolExecutor  # --status rarely has as much to read

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return list(threads.map(function, items))
