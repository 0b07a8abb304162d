"""A command and all its processes: their time, and the memory that they have together."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SECONDS_BETWEEN_LOOKS = 0.25  # each look at the memory of a process costs it a millisecond or two


@dataclass(frozen=True)
class Took:
    """`cpu`: seconds of user and system time of all its processes. `memory`: bytes, the most seen at one time; what
    several of them hold counts once (PSS; on other systems than Linux, resident sets)."""

    seconds: float
    cpu: float
    memory: int
    code: int


class Tree:
    """A command that runs, its output in the file `log`."""

    def __init__(self, command: Sequence[str], log: Path, cwd: Path):
        self.began = time.perf_counter()
        with open(log, "ab") as out:
            self.process = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=out, start_new_session=True)
        self._memory, self._usage, self.code = 0, None, None

    def wait(self, seconds: float = float("inf")) -> bool:
        """Whether it has ended, after at most `seconds`."""
        until = time.perf_counter() + seconds
        while self.code is None:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.code, self._usage = os.waitstatus_to_exitcode(status), usage
                self.process.returncode = self.code  # so that Popen waits for it no more
                self.seconds = time.perf_counter() - self.began
                break
            if time.perf_counter() > until:
                return False
            self._memory = max(self._memory, sum(map(memory_of, self.processes())))
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return True

    def took(self) -> Took:
        """Of one that has ended."""
        return Took(self.seconds, self._usage.ru_utime + self._usage.ru_stime, self._memory, self.code)

    def processes(self) -> list[psutil.Process]:
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """All of it, as a power cut would."""
        for process in self.processes():
            kill(process)
        self.wait()

    def kill_one(self, generator: random.Random) -> bool:
        """One of its workers; False when there is none."""
        workers = [process for process in self.processes()[1:] if is_worker(process)]
        if workers:
            kill(generator.choice(workers))
        return bool(workers)


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)


def memory_of(process: psutil.Process) -> int:
    try:
        found = process.memory_full_info()
    except psutil.Error:
        return 0
    return getattr(found, "pss", found.rss)


def run(command: Sequence[str], log: Path, cwd: Path) -> Took:
    """The command to its end. Raises RuntimeError with the log's end when it fails."""
    tree = Tree(command, log, cwd)
    try:
        tree.wait()
    finally:
        if tree.code is None:
            tree.kill()
    if tree.code:
        raise RuntimeError(f"{' '.join(command)}: code {tree.code}\n{log.read_text(errors='replace')[-2000:]}")
    return tree.took()
