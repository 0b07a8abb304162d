"""Whether a process that a file names still lives: the system may have given its number to another."""

from __future__ import annotations

import psutil


def born(pid: int) -> float | None:
    """When the process started, in seconds since the machine did, whatever the clock was set to meanwhile; None where
    it has ended."""
    try:
        boot = psutil.boot_time()  # first: create_time() adds what this has found to the time since then
        process = psutil.Process(pid)
        is_over = process.status() == psutil.STATUS_ZOMBIE
        return None if is_over else round(process.create_time() - boot, 2)
    except (psutil.Error, OverflowError, ValueError):  # the last two: no process has such a number
        return None


def lives(pid: int, born_at: float | None) -> bool:
    """`born_at`: what born() said of it while it lived; None in a file of an earlier version, which kept none."""
    now = born(pid)
    return now is not None and (born_at is None or abs(now - born_at) < 1.5)  # the time of boot is in whole seconds
