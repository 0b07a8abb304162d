"""How much longer things take while other work has the processors: for limits of wall-clock time."""

import subprocess
import sys
import time

import psutil


def allowed(seconds: float) -> float:
    """`seconds` of a quiet machine as they are here and now: longer by as much as starts of Python last longer than
    the processor time that they take."""
    began, spent = time.monotonic(), _processor_seconds()
    for _ in range(3):
        subprocess.run([sys.executable, "-c", "import asyncio"], check=True)
    return seconds * max(1.0, (time.monotonic() - began) / (_processor_seconds() - spent))


def _processor_seconds() -> float:
    """Of the children that have ended."""
    times = psutil.Process().cpu_times()
    return times.children_user + times.children_system
