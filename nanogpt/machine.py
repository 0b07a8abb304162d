"""The machine as its system tells of it, without torch: processor, cores, memory."""

from __future__ import annotations

import contextlib
import os
import platform
import sys

import psutil


def processor_name() -> str:
    """The processor as its maker calls it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def has_bfloat16_instructions() -> bool:
    """Whether the processor says that it multiplies bfloat16; where nobody can be asked, no."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        text = file.read(20000)
        return "avx512_bf16" in text or "amx_bf16" in text
    return False


def cores() -> int:
    """Cores that this process may use, hyper-threads counted."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical_cores() -> int:
    """Physical cores this process may use: hyper-threads share the units that matrix products keep busy."""
    return max(1, min(cores(), psutil.cpu_count(logical=False) or cores()))


def memory_bytes() -> int:
    """All of the machine's memory."""
    return psutil.virtual_memory().total
