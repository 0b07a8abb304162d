"""Runs the phases one after another: what became of each, and why; a failure never stops what can still run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from flows.context.budget_clock import BudgetClock
from flows.context.journal import Journal
from flows.machine.disk import Unwritable
from flows.runner.step_runner import Blocked, StepRunner, cause_of
from nanogpt.faults import UserError

Status = Literal["waiting", "running", "done", "kept", "failed", "blocked", "skipped"]


@dataclass
class PhaseRecord:
    """What became of a phase in this session. `number` and `title` are for people."""

    name: str
    number: int
    status: Status = "waiting"
    seconds: float = 0.0
    cause: str | None = None
    next_command: str | None = None
    is_over: bool = False  # nothing is left to do in it, though it may have failed

    @property
    def title(self) -> str:
        return self.name.capitalize()

    @property
    def label(self) -> str:
        return f"{self.number} {self.title}"

    @property
    def has_failed(self) -> bool:
        return self.status in ("failed", "blocked")


class GoalMissed(Exception):
    """Every step of a phase is done, and what came out is not what the run is for. `command` gives it a chance."""

    def __init__(self, message: str, command: str, shown_as: str):
        super().__init__(message)
        self.command, self.shown_as = command, shown_as


class PhaseRunner:
    """The phases of one run. `only`: the one that is asked for; `command` continues a run whose phase has failed."""

    def __init__(
        self,
        names: Sequence[str],
        journal: Journal,
        steps: StepRunner,
        clock: BudgetClock,
        only: str | None,
        command: str,
    ):
        self.records = [PhaseRecord(name, number) for number, name in enumerate(names, 1)]
        self._journal, self._steps, self._clock = journal, steps, clock
        self._only, self._command = only, command

    def run(self, name: str, work: Callable[[], None]) -> None:
        """Run a phase, unless another one alone was asked for.

        Raises UserError while there is no trained model to report on, and Unwritable: no later phase could write.
        """
        record = self.record(name)
        if self._only not in (None, name):
            record.status, record.is_over = "skipped", True
            return
        record.status = "running"
        try:
            self._journal.display.phase(record.label, work)
        except UserError as error:
            record.status, record.cause = "failed", str(error)
            if not self._has_trained():
                raise
        except Blocked as error:
            record.status, record.cause = "blocked", str(error)
        except Unwritable as error:
            record.status, record.cause = "failed", str(error)
            raise
        except GoalMissed as error:
            record.status, record.cause, record.next_command = "failed", str(error), error.command
            record.is_over = True
        except Exception as error:
            record.status, record.cause = "failed", cause_of(error)
        else:
            all_kept = all(step.state == "kept" for step in self._steps.records(name))
            record.status = "kept" if all_kept else "done"
            record.is_over = True
        if record.has_failed:
            record.next_command = record.next_command or self._command
            self._journal.message(f"{record.label} {record.status}: {record.cause}", "error")
        record.seconds = sum(step.seconds for step in self._steps.records(name))
        self._clock.save()

    def record(self, name: str) -> PhaseRecord:
        return next(record for record in self.records if record.name == name)

    def running(self) -> str:
        """The phase that is under way; the first before any."""
        return next((record for record in self.records if record.status == "running"), self.records[0]).name

    def is_whole(self) -> bool:
        """Whether every phase came to a good end; one that is still running was cut short by what no phase records."""
        return all(record.status in ("done", "kept", "skipped") for record in self.records)

    def is_over(self) -> bool:
        """Whether nothing is left to do, whether or not what came out is any good."""
        return all(record.is_over for record in self.records)

    def have_finished(self, steps: Iterable[str]) -> bool:
        """Whether the outputs of all these may be used: with --only, also those of other phases."""
        return set(steps) <= self._steps.finished

    def _has_trained(self) -> bool:
        return any(name.startswith("training.") for name in self._steps.finished)
