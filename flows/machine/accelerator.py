"""The run's accelerator, and what follows when it fails beside training: once more in a fresh process, then the CPU.

The CPU it is for the rest of the run then, in later sessions too: whoever failed twice would cost a night's time in
every phase. Proving the devices anew (--redo environment.device, another machine, another torch) forgives it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from flows.machine.worker import WorkerDied
from flows.supervision.supervisor import WRONG_NUMBERS
from nanogpt import durable
from nanogpt.faults import OUT_OF_MEMORY, classify

if TYPE_CHECKING:
    from flows.runner.run import Run

T = TypeVar("T")
FAILURES = (WorkerDied, RuntimeError, TypeError)  # what a device raises, and what its abort or hang becomes
ONCE_MORE, CPU = "once more in a fresh process", "go on with the CPU"


def on_device(run: Run, step: str, work: Callable[[str], T], proved: str | None = None) -> T:
    """work(device) on the run's device, with the remedies above where that fails. Raises what the CPU raises.

    `proved`: the device, where the implementation's checks have yet to settle it.
    """
    for remedy in (ONCE_MORE, CPU):
        device = device_of(run, proved)
        if device == "cpu":
            break
        began = time.monotonic()
        try:
            result = work(device)
            if not (complaint := WRONG_NUMBERS.search(run.worker.said())):
                return result
            evidence = f"{device}: {complaint[0]}"
        except FAILURES as error:
            if classify(error) == OUT_OF_MEMORY and not isinstance(error, WorkerDied):
                run.remedy(
                    step=step, symptom=OUT_OF_MEMORY, evidence=f"{device}: {first_line(error)}",
                    remedy="this alone on the CPU", outcome=f"{device} stays", steps_lost=0,
                    cost_seconds=round(time.monotonic() - began, 1),
                )  # fmt: skip
                break
            evidence = f"{device}: {first_line(error)}"
        run.worker.close(kill=True)  # a device that failed may not let its process end
        if remedy == CPU:
            give_up(run, evidence)
        run.remedy(
            step=step, symptom="device", evidence=evidence, remedy=remedy, outcome=f"on {device_of(run, proved)}",
            cost_seconds=round(time.monotonic() - began, 1), steps_lost=0,
        )  # fmt: skip
    return work("cpu")


def device_of(run: Run, proved: str | None = None) -> str:
    """What the run computes on now."""
    if reason_given_up(run):
        return "cpu"
    return proved or run.facts("implementation.checks")["device"]


def give_up(run: Run, reason: str) -> None:
    """The CPU from now on."""
    durable.unblock(_file(run))
    durable.write_json(_file(run), {"device": "cpu", "reason": reason})


def reason_given_up(run: Run) -> str:
    """Why the run leaves its accelerator alone; "" while it does not."""
    try:
        return durable.read_json(_file(run))["reason"]
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError):  # torn or rotten, but nobody else writes it
        return "it failed before"


def forgive(run: Run) -> None:
    """The devices are proved anew."""
    durable.unblock(_file(run))
    _file(run).unlink(missing_ok=True)


def first_line(error: BaseException) -> str:
    """What went wrong in a line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _file(run: Run):
    return run.paths.state / "device.json"
