"""The control groups of this process, by which Linux limits a container or a systemd unit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def control_groups(controller: str) -> Iterator[tuple[int, Path]]:
    """The version (1 or 2) and folder of this process's control groups for `controller`, none outside Linux."""
    with contextlib.suppress(OSError):
        for line in OWN.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield 2, ROOT / path.lstrip("/")
            elif controller in controllers.split(","):
                yield 1, ROOT / controller / path.lstrip("/")
