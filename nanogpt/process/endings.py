"""How a process ended: one table of symptoms for trainers and workers, from signal, last words and memory."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from nanogpt import durable, faults
from nanogpt.process.memory_pressure import MemoryPressure

KILLED = "killed"  # by SIGKILL or SIGTERM, and nothing speaks for memory
ABORTED = "aborted"  # by a signal of its own making
CRASHED = "crashed"  # an exit code that is no ending
STALL = "stall"  # it showed no life, or gave no answer in time
# Metal's words for numbers that are wrong from now on; nothing is raised (pytorch, MPSStream.mm).
WRONG_NUMBERS = re.compile(r"^(Error: )?command buffer exited with error status", re.MULTILINE)


@dataclass(frozen=True)
class Death:
    """A symptom of nanogpt.faults or one of the above, and what speaks for it."""

    symptom: str
    evidence: str


def death_by_signal(number: int, pressure: MemoryPressure, said: ProcessLog, device: str) -> Death:
    """A signal has no message: memory, the last words and the device say what it was."""
    name = next((known.name for known in signal.Signals if known == number), f"signal {number}")  # most of real time
    evidence = f"ended by {name}; {said.last_words()}"
    if number == signal.SIGKILL and (memory := pressure.evidence()):
        return Death(faults.OUT_OF_MEMORY, memory)
    if number in (signal.SIGKILL, signal.SIGTERM):
        return Death(KILLED, evidence)
    if faults.symptom_in(said.text()) == faults.OUT_OF_MEMORY:  # of an uncaught std::bad_alloc
        return Death(faults.OUT_OF_MEMORY, evidence)
    return Death(ABORTED if device == "cpu" else faults.DEVICE, evidence)


class ProcessLog:
    """What one process prints: the part of its log from now on, read as it grows."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        with contextlib.suppress(OSError):  # no log that cannot be opened may stop a training
            os.close(durable.open_to_append(path))
        self._began_at = self._read_to = self.size()

    def line_like(self, pattern: re.Pattern[str]) -> str:
        """The first whole line since the last call that `pattern` finds; "" without one."""
        new = self._from(self._read_to)
        new = new[: new.rfind(b"\n") + 1]
        self._read_to += len(new)
        text = new.decode("utf-8", "replace")
        found = pattern.search(text)
        return text[found.start() :].splitlines()[0][:300] if found else ""

    def text(self, most: int = 64_000, since: int = 0) -> str:
        """All that was printed, beyond the file's byte `since`, or its last `most` bytes."""
        return self._from(max(self._began_at, since, self.size() - most)).decode("utf-8", "replace")

    def size(self) -> int:
        """Of the file, in bytes; 0 when somebody has removed it."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def last_words(self) -> str:
        """The last error's line, where there is one: the stacks of an abort come after it."""
        lines = self.text().strip().splitlines()
        errors = [line for line in lines if faults.is_error_line(line)]
        return (errors or lines or ["it printed nothing"])[-1].strip()[:300]

    def _from(self, byte: int) -> bytes:
        try:
            with durable.open_plain(self.path) as file:
                file.seek(byte)
                return file.read()
        except OSError:  # removed, or no file any more: what it said is lost, and no reason to stop a training
            return b""
