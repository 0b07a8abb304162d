"""What the operating system says about the machine, without torch: processor, cores, memory."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

CONTROL_GROUPS = {  # by the controllers in /proc/self/cgroup; version 2 has an empty name
    "": (Path("/sys/fs/cgroup"), "memory.max"),
    "memory": (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
}
ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap", "/dev/kfd")  # NVIDIA, under WSL, in a Tegra; AMD


def may_have_accelerator() -> bool:
    """Whether there can be a GPU that torch computes on; False only where the system shows that there is none.

    Asking torch takes 1.5 s.
    """
    return sys.platform != "linux" or any(map(os.path.exists, ACCELERATORS))


def processor_name() -> str:
    """The processor as its maker calls it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@functools.cache
def has_bfloat16_instructions() -> bool:
    """Whether the processor multiplies bfloat16 by its own word; False where the system does not say."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        text = file.read(20000)
        return "avx512_bf16" in text or "amx_bf16" in text
    return False


@functools.cache
def processor_features() -> str:
    """The instructions that the processor has, as Linux lists them; empty elsewhere."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith(("flags", "Features")):
                return " ".join(sorted(line.split(":", 1)[1].split()))
    return ""


def is_virtual() -> bool:
    """Whether this is a virtual machine by the processor's own word; False where the system does not say."""
    return "hypervisor" in processor_features().split()


def cores() -> int:
    """Cores that this process may use, hyper-threads counted."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical_cores() -> int:
    """Physical cores this process may use: hyper-threads share the units that matrix products keep busy."""
    return max(1, min(cores(), psutil.cpu_count(logical=False) or cores()))


def memory_bytes() -> int:
    """The memory that this process may use: the machine's, or less under a control group's or its own limit."""
    return min([psutil.virtual_memory().total, *_limits_of_groups(), *_limit_of_addresses()])


def _limits_of_groups() -> Iterator[int]:
    """Bytes allowed by this process's control group and those around it (containers, systemd units), v1 and v2."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            root, file = CONTROL_GROUPS[controllers]
            inner = root / path.lstrip("/")
            for group in (inner, *inner.parents):
                with contextlib.suppress(OSError, ValueError):  # "max" is no limit
                    yield int((group / file).read_text(encoding="ascii"))


def _limit_of_addresses() -> Iterator[int]:
    """RLIMIT_AS, where it is set."""
    with contextlib.suppress(ImportError, OSError):  # the first: Windows
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            yield limit
