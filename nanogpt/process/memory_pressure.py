"""Whether memory was running out: what a SIGKILL does not say. Torch-free, and cheap enough for a look twice a second.

What is read on macOS follows Apple's documentation of jetsam event reports and xnu's sysctls; it never ran on a Mac.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from nanogpt.control_groups import control_groups
from nanogpt.units import percent

PRESSURE = 0.05  # less than this share of memory left before a SIGKILL: the kernel's out-of-memory killer
REMEMBERED_SECONDS = 3.0  # what is left after a death says nothing: the dead process gave its memory back


@dataclass(frozen=True)
class GroupFiles:
    """Where a control group shows its memory. `cache`: what of its use is files that can be dropped."""

    limit: str
    used: str
    cache: str
    kills: str


FILES = {  # by the version of control groups
    2: GroupFiles("memory.max", "memory.current", "inactive_file", "memory.events"),
    1: GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "memory.oom_control"),
}

REPORTS = Path("/Library/Logs/DiagnosticReports")  # of macOS, which writes one when it has killed for want of memory
PRESSURE_LEVEL = ["sysctl", "-n", "kern.memorystatus_vm_pressure_level"]  # of macOS: 1 normal, 2 warning, 4 critical
CRITICAL = "4"


class MemoryPressure:
    """The machine's memory, and that of this process's control group, over the last seconds; of macOS, since the watch
    began."""

    def __init__(self) -> None:
        self._began = time.time()  # as the times of files are
        self._looks: deque[tuple[float, float, int]] = deque()  # (moment, share left, kills of the kernel)
        self.look()

    def look(self) -> None:
        now = time.monotonic()
        self._looks.append((now, share_left(), kernel_kills()))
        while now - self._looks[0][0] > REMEMBERED_SECONDS:
            self._looks.popleft()

    def evidence(self) -> str:
        """Why a SIGKILL now was for want of memory; "" if nothing speaks for it."""
        if kernel_kills() > self._looks[0][2]:  # seconds ago: one of hours ago was another program's
            return "the kernel has killed for want of memory"
        least = min(share for _, share, _ in self._looks)
        if least < PRESSURE:
            return f"killed with {percent(least, 0)} of memory left"
        return evidence_of_macos(self._began) if sys.platform == "darwin" else ""


def share_left() -> float:
    """Of the machine's memory or the control group's, whichever has less."""
    memory = psutil.virtual_memory()
    return min(memory.available / memory.total, *_shares_of_groups(), 1.0)


def kernel_kills() -> int:
    """How many processes Linux has killed for want of memory, as far as it says; 0 elsewhere."""
    counted = _counted(Path("/proc/vmstat"), "oom_kill")
    for group, files in _groups():
        counted += _counted(group / files.kills, "oom_kill")
    return counted


def evidence_of_macos(since: float) -> str:
    """The report of a kill for want of memory that was written `since`, or that the system is as short of it now as it
    can be; "" for neither."""
    with contextlib.suppress(OSError):  # of them all: only administrators may look there
        reports = [report for report in REPORTS.glob("JetsamEvent-*.ips") if report.stat().st_mtime >= since]
        if reports:
            newest = max(reports, key=lambda report: report.name)  # JetsamEvent-2026-11-20-235012.ips
            return f"macOS has killed for want of memory ({newest.name})"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(PRESSURE_LEVEL, capture_output=True, text=True, timeout=5)
        if answer.stdout.strip() == CRITICAL:
            return "killed while macOS called the pressure on its memory critical"
    return ""


def _shares_of_groups() -> Iterator[float]:
    for group, files in _groups():
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # "max" is no limit
            limit = int((group / files.limit).read_text(encoding="ascii"))
            used = int((group / files.used).read_text(encoding="ascii"))
            yield min(1.0, 1 - (used - _counted(group / "memory.stat", files.cache)) / limit)


@functools.cache  # a process that works is not moved to another group
def _groups() -> list[tuple[Path, GroupFiles]]:
    return [(group, FILES[version]) for version, group in control_groups("memory")]


def _counted(file: Path, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in file.read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(" ")
            if key == name and value.strip().isdigit():
                return int(value)
    return 0
