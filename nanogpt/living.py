"""Whether a process that a file names still lives: the system may have given its number to another."""

from __future__ import annotations

import psutil


def born(pid: int) -> float | None:
    """When the process started, in seconds since the machine did, whatever the clock was set to meanwhile; None where
    it has ended, or where the system does not say."""
    try:
        boot = psutil.boot_time()
        process = psutil.Process(pid)
        return None if _is_over(process) else round(process.create_time() - boot, 2)
    except (psutil.Error, OSError, RuntimeError, OverflowError, ValueError):  # the last two: there is no such number
        return None


def lives(pid: int, born_at: float | None) -> bool:
    """`born_at`: what born() said of it while it lived; None in a file of an earlier version, which kept none."""
    now = born(pid)
    if now is None:
        return _is_there(pid)
    return born_at is None or abs(now - born_at) < 1.5  # the time of boot is in whole seconds


def _is_there(pid: int) -> bool:
    """Where nothing says when it was born: a process of another user's, or a sandbox that hides the time of boot."""
    try:
        return not _is_over(psutil.Process(pid))
    except psutil.AccessDenied:
        return True
    except (psutil.Error, OverflowError, ValueError):
        return False


def _is_over(process: psutil.Process) -> bool:
    return bool(process.status() == psutil.STATUS_ZOMBIE)
