"""The run's accelerator, and what follows when it fails outside training: once more in a fresh process, then the CPU.

After that, the run stays on the CPU, in later sessions too: what failed twice would cost a night's time in every phase.
Proving the devices anew (--redo environment.device, another machine, another torch) forgives it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flows.context.journal import Journal
from nanogpt import durable
from nanogpt.faults import DEVICE, OUT_OF_MEMORY, classify
from nanogpt.process.endings import WRONG_NUMBERS
from nanogpt.process.worker import Worker, WorkerDied

T = TypeVar("T")
FAILURES = (WorkerDied, RuntimeError, TypeError)  # what a device raises, and what its abort or hang becomes
ONCE_MORE, CPU = "once more in a fresh process", "continue on the CPU"


class Accelerator:
    """Whether the device that a run settled on is still used; `file` keeps that it is not."""

    def __init__(self, file: Path, journal: Journal, worker: Worker):
        self._file, self._journal, self._worker = file, journal, worker

    def current(self, device: str) -> str:
        """What a run that settled on `device` computes on now."""
        return "cpu" if self.reason_given_up() else device

    def run_on(self, device: str, step: str, work: Callable[[str], T]) -> T:
        """work(device), with the remedies above where that fails. Raises what the CPU raises."""
        for remedy in (ONCE_MORE, CPU):
            if self.current(device) == "cpu":
                break
            began = time.monotonic()
            try:
                result = work(device)
                if not (complaint := WRONG_NUMBERS.search(self._worker.said())):
                    return result
                evidence = f"{device}: {complaint[0]}"
            except FAILURES as error:
                evidence = f"{device}: {first_line(error)}"
                if classify(error) == OUT_OF_MEMORY and not isinstance(error, WorkerDied):
                    self._journal.record(
                        step, OUT_OF_MEMORY, evidence, "this alone on the CPU", f"{device} stays",
                        time.monotonic() - began,
                    )  # fmt: skip
                    break
            self._worker.close(kill=True)  # a device that failed may not let its process end
            if remedy == CPU:
                self.give_up(evidence)
            outcome = f"on {self.current(device)}"
            self._journal.record(step, DEVICE, evidence, remedy, outcome, time.monotonic() - began)
        return work("cpu")

    def give_up(self, reason: str) -> None:
        """The CPU from now on."""
        durable.write_json(self._file, {"device": "cpu", "reason": reason})

    def reason_given_up(self) -> str:
        """Why the run leaves its accelerator alone; "" while it does not."""
        try:
            return str(durable.read_json(self._file)["reason"])
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, KeyError, TypeError):  # torn or rotten, but nobody else writes it
            return "it failed before"

    def forgive(self) -> None:
        """The devices are proved anew."""
        durable.remove(self._file)


def first_line(error: BaseException) -> str:
    """What went wrong in a line."""
    return next(iter(str(error).splitlines()), type(error).__name__)
