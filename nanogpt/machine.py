"""What the operating system says about the machine, without torch: processor, cores, memory."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from nanogpt.control_groups import control_groups

CPUINFO = Path("/proc/cpuinfo")
COOPER_LAKE = "85"  # its model number
ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap", "/dev/kfd")  # NVIDIA, under WSL, in a Tegra; AMD


def may_have_accelerator() -> bool:
    """Whether there can be a GPU that torch computes on; False only where the system shows that there is none.

    Asking torch takes 1.5 s.
    """
    return sys.platform != "linux" or any(map(os.path.exists, ACCELERATORS))


def processor_name() -> str:
    """The processor as its maker calls it."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def has_bfloat16_instructions() -> bool:
    """Whether the processor multiplies bfloat16 by its own word; False where the system does not say."""
    features = processor_features().split()
    return "avx512_bf16" in features or "amx_bf16" in features


@functools.cache
def gains_by_bfloat16() -> bool:
    """Whether bfloat16 products are faster than float32's: by the processor's make, so that two processes agree.

    Products of 1024 x 1024 on two cores, GFLOP/s in bfloat16 and in float32: 1,274 and 368 with AMX; with AVX-512 alone
    426 and 194 on an AMD EPYC, but 166 and 260 on an Intel Xeon (Emerald Rapids, AMX hidden by its host), where a step
    of micro takes 81 ms in bfloat16 and 53 in float32. Not measured: Cooper Lake, twice as fast by Intel's word.
    """
    if "amx_bf16" in processor_features().split():
        return True
    slow = cpuinfo("vendor_id") == "GenuineIntel" and cpuinfo("model") != COOPER_LAKE
    return has_bfloat16_instructions() and not slow


@functools.cache
def processor_features() -> str:
    """The instructions that the processor has, as Linux lists them; empty elsewhere."""
    words = cpuinfo("flags") or cpuinfo("Features")  # the second on ARM
    return " ".join(sorted(words.split()))


def cpuinfo(name: str) -> str:
    """What Linux says of the first processor under `name`; empty where it does not, and elsewhere."""
    with contextlib.suppress(OSError), CPUINFO.open(encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""


def cores_may_part() -> bool:
    """Whether the host may move two cores of this virtual machine to different caches, and back, while it computes.

    An AMD EPYC has one L3 cache for every eight cores or so; an Intel Xeon has one for all. False where the system does
    not say.
    """
    return "hypervisor" in processor_features().split() and is_amds()


def is_amds() -> bool:
    """Whether AMD made the processor; False where the system does not say."""
    return cpuinfo("vendor_id") == "AuthenticAMD"


def cores() -> int:
    """Cores that this process may use, hyper-threads counted; fewer where a control group has less of their time, as in
    a container with `--cpus 2`."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([own, *map(math.ceil, _shares_of_cores())]))


def physical_cores() -> int:
    """Physical cores this process may use: hyper-threads share the units that matrix products keep busy."""
    return max(1, min(cores(), psutil.cpu_count(logical=False) or cores()))


def memory_bytes() -> int:
    """The memory that this process may use: the machine's, or less under a control group's or its own limit."""
    return min([psutil.virtual_memory().total, *_limits_of_groups(), *_limit_of_addresses()])


def _limits_of_groups() -> Iterator[int]:
    """Bytes allowed by this process's control groups and those around them (containers, systemd units)."""
    for version, inner in control_groups("memory"):
        for group in (inner, *inner.parents):
            with contextlib.suppress(OSError, ValueError):  # "max" is no limit
                limit = "memory.max" if version == 2 else "memory.limit_in_bytes"
                yield int((group / limit).read_text(encoding="ascii"))


def _shares_of_cores() -> Iterator[float]:
    """How many cores' time these groups allow, each that has a limit."""
    for version, inner in control_groups("cpu"):
        for group in (inner, *inner.parents):
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # "max" is no limit
                files = ["cpu.max"] if version == 2 else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
                words = " ".join((group / file).read_text(encoding="ascii") for file in files)
                microseconds, period = map(int, words.split())
                if microseconds > 0:  # version 1 has -1 for no limit
                    yield microseconds / period


def _limit_of_addresses() -> Iterator[int]:
    """RLIMIT_AS, where it is set."""
    with contextlib.suppress(ImportError, OSError):  # the first: Windows
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            yield limit
