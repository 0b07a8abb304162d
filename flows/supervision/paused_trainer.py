"""A trainer that somebody had paused when its run was killed: it holds its folder, and would wait for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout


def let_go_on(folder: Path) -> list[int]:
    """Continue each paused trainer of `folder` whose run is gone: a trainer without its run saves and ends. Returns
    their process numbers."""
    return [process.pid for process in _paused_in(folder) if _continued(process)] if _is_held(folder / ".lock") else []


def _is_held(file: Path) -> bool:
    """Whether a trainer holds the lock of its folder; to look at every process of the machine takes longer."""
    if not file.is_file():
        return False
    try:
        with FileLock(file, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # not ours to open, or a disk without locks
        return False


def _paused_in(folder: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            is_orphan = _after("--parent", words) not in ("", str(process.ppid()))
            is_here = _after("--folder", words) == str(folder)
            if is_orphan and is_here and process.status() == psutil.STATUS_STOPPED:
                yield process


def _after(option: str, words: list[str]) -> str:
    return words[words.index(option) + 1] if option in words[:-1] else ""


def _continued(process: psutil.Process) -> bool:
    try:
        process.resume()
    except psutil.Error:  # it has ended, or belongs to somebody else
        return False
    return True
