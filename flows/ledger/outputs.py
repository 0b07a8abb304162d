"""What a step left on the disk: each file's path, size and sha256, and whether it is still so."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nanogpt.durable import sha256_file

THREADS_FROM_BYTES = 8 << 20  # below this, starting threads costs more than hashing in one


def describe(files: Iterable[Path], workspace: Path) -> list[dict]:
    """[{path under the workspace, size, sha256}], sorted by path.

    Raises OSError for a file that cannot be read, ValueError for one outside the workspace.
    """
    outputs = []
    for path in sorted({_within(workspace, Path(file)) for file in files}):
        outputs.append({"path": path.relative_to(workspace).as_posix(), "size": path.stat().st_size})
    digests = _map(lambda output: sha256_file(workspace / output["path"]), outputs)
    return [{**output, "sha256": sha256} for output, sha256 in zip(outputs, digests, strict=True)]


def damage(outputs: list[dict], workspace: Path) -> str | None:
    """The first output that is not as described; all sizes are looked at before any file is read."""
    wrong_sizes = (_wrong_size(output, workspace) for output in outputs)
    if problem := next(filter(None, wrong_sizes), None):
        return problem
    return next(filter(None, _map(lambda output: _wrong_bytes(output, workspace), outputs)), None)


def _within(workspace: Path, file: Path) -> Path:
    absolute = Path(os.path.abspath(workspace / file))
    path = absolute.parent.resolve() / absolute.name  # the file itself may be a link to elsewhere
    if not path.is_relative_to(workspace):
        raise ValueError(f"{file} is not under the workspace {workspace}")
    return path


def _wrong_size(output: dict, workspace: Path) -> str | None:
    path = output["path"]
    try:
        if (workspace / path).is_dir():
            return f"{path} is a folder, not a file"
        excess = (workspace / path).stat().st_size - output["size"]
    except (FileNotFoundError, NotADirectoryError):
        return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    if excess == 0:
        return None
    unit = "byte" if abs(excess) == 1 else "bytes"
    return f"{path} is {abs(excess):,} {unit} {'short' if excess < 0 else 'longer'}"


def _wrong_bytes(output: dict, workspace: Path) -> str | None:
    try:
        same = sha256_file(workspace / output["path"]) == output["sha256"]
    except OSError as error:
        return f"{output['path']} cannot be read ({error.strerror})"
    return None if same else f"{output['path']} changed (sha256 differs)"


def _map(function: Callable[[dict], Any], outputs: list[dict]) -> Iterable[Any]:
    """`function` of each output, in order; several files at once when there is much to read."""
    if sum(output["size"] for output in outputs) < THREADS_FROM_BYTES or len(outputs) < 2:
        return map(function, outputs)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return list(threads.map(function, outputs))
