"""One step of a run: kept or done, on this thread or in the background, recorded, and shown."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from flows.context import stop_signal
from flows.context.budget_clock import BudgetClock
from flows.context.journal import Journal
from flows.context.provenance import code_commit
from flows.display.protocol import LeftOut
from flows.ledger.facts import Key, Remedy
from flows.ledger.ledger import Decision, Ledger
from flows.ledger.steps import Json, StepResult, StepSpec
from flows.machine.disk import DiskSpace
from nanogpt.faults import CORRUPT_FILE, DISK_FULL, classify

RUST_PANIC = "PanicException"  # what a panic of a library in Rust is in Python, by PyO3
F = TypeVar("F")
T = TypeVar("T")
State = Literal["done", "left out", "kept", "failed"]
SECONDS_BETWEEN_PULSES, MOST_PULSES = 10.0, 360  # while a step in the background is waited for: an hour


class Blocked(Exception):
    """A step whose inputs are not there because an earlier one failed or was left out."""

    shown_as = "Blocked"  # the name of the state on its page


@dataclass(frozen=True)
class StepRecord:
    """What became of a step in this session, and why."""

    name: str
    title: str
    state: State
    reason: str
    seconds: float


@dataclass(frozen=True)
class Work(StepSpec[F]):
    """A step that is ready to run: what it does, and the settings that its result depends on."""

    run: Callable[[], StepResult[F]]
    settings: Callable[[], Json]


class StepRunner:
    """Keeps or does the steps of one run. `after_step` is called when the work of one has ended, with its name."""

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        disk: DiskSpace,
        clock: BudgetClock,
        redo: tuple[str, ...],
        pulse: Callable[[], None],
        after_step: Callable[[str], None],
    ):
        self._ledger, self._journal, self._disk, self._clock = ledger, journal, disk, clock
        self._redo, self._pulse, self._after_step = redo, pulse, after_step
        self.finished: set[str] = set()  # steps whose outputs may be used in this session
        self._records: dict[str, StepRecord] = {}
        self._prefetched: dict[str, Callable[[], Any]] = {}
        self._lock = threading.Lock()

    def do(self, work: Work[F]) -> F:
        """Keep or do one step, on this thread; its facts. Raises what the work raises, Blocked without its inputs."""
        stop_signal.check()
        if prefetched := self._prefetched.pop(work.name, None):
            with suppress(Exception):
                prefetched()
        decision, settings = self._decide(work)
        if not decision.keep:
            self._journal.display.step(work.title, lambda: self._run(work, settings, decision))
        elif work.name not in self.finished:  # else it was done, or shown as kept, earlier in this session
            self._journal.display.step_kept(work.title, decision.reason)
        return self._settle(work, decision)

    def start_in_background(self, work: Work[F]) -> Callable[[], F]:
        """Start a short step in a thread; the returned function waits for it and gives its facts."""
        decision, settings = self._decide(work)
        if decision.keep:
            return lambda: self.do(work)
        started = self._journal.display.start_in_background(work.title, lambda: self._run(work, settings, decision))

        def join() -> F:
            try:
                for _ in range(MOST_PULSES):  # what takes longer still hangs: then the watchdog is to say so
                    if wait([started], SECONDS_BETWEEN_PULSES).done:
                        break
                    self._pulse()
                started.result()
            except Exception as error:
                if classify(error) != DISK_FULL:
                    raise
                return self.do(work)  # here, where a wait for room can be stopped
            return self._settle(work, decision)

        return join

    def prefetch(self, work: Work[Any]) -> None:
        """Start a step of a later phase early. A failure is left to its own phase, where it is tried again."""
        with suppress(Exception):
            self._prefetched[work.name] = self.start_in_background(work)

    def facts(self, key: Key[F]) -> F:
        """The facts of a finished step. Raises Blocked when it has not finished in this session."""
        facts = self._ledger.facts(key) if key.step in self.finished else None
        if facts is None:
            raise Blocked(f"{key.step} has not finished")
        return facts

    def records(self, phase: str) -> list[StepRecord]:
        """What became of the steps of a phase, in the order in which they ended."""
        with self._lock:
            return [record for record in self._records.values() if record.name.partition(".")[0] == phase]

    def _decide(self, work: Work[F]) -> tuple[Decision, Json]:
        missing = [name for name in work.needs if name not in self.finished]
        is_enough = {"all": not missing, "one": len(missing) < len(work.needs), "none": True}[work.needs_at_least]
        if not is_enough:
            raise Blocked(f"{missing[0]} has not finished")
        redo = work.name in self._redo and work.name not in self.finished
        settings = work.settings()
        decision = self._ledger.decide(work, settings, redo)
        if decision.keep and decision.damage:
            self._ledger.mend(work)
            self._journal.record(work.name, CORRUPT_FILE, decision.damage, "put back from its copy", "kept")
        return decision, settings

    def _run(self, work: Work[F], settings: Json, decision: Decision) -> LeftOut | None:
        self._clock.forget_finished()
        self._journal.log(f"{work.name}: started ({decision.reason})")
        self._journal.timeline.note("step began", work.name)
        self._pulse()
        began, earlier = self._clock.spent, len(self._journal.remedies)
        remade: Remedy | None = None
        if decision.damage:
            remade = self._journal.record(work.name, CORRUPT_FILE, decision.damage, "made again")
        try:
            self._with_room(work, lambda: self._ledger.start(work, settings, decision.reason))
            result = self._with_room(work, work.run)
            self._after_step(work.name)
            seconds = self._clock.spent - began
            if remade:
                self._journal.amend(remade, outcome="done", more_seconds=seconds)
            remedies = self._journal.remedies[earlier:]
            self._with_room(work, lambda: self._ledger.finish(work, result, seconds, remedies, code_commit()))
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                self._disk.require_folders()
            cause, seconds = cause_of(error), self._clock.spent - began
            with suppress(OSError):  # a full disk: the step then counts as interrupted
                self._ledger.fail(work, cause, seconds, self._journal.remedies[earlier:])
            self._record(work, "failed", cause, seconds)
            self._journal.timeline.note("step ended", work.name, "failed")
            self._journal.log(f"{work.name}: failed: {cause}", "error")
            if type(error).__name__ == RUST_PANIC:  # no Exception: it would end the whole run
                raise RuntimeError(cause) from error
            raise
        self._pulse()
        if result.left_out:
            self._record(work, "left out", result.left_out, seconds)
            self._journal.timeline.note("step ended", work.name, "left out")
            self._journal.log(f"{work.name}: left out: {result.left_out}")
            return LeftOut(result.left_out)
        self._record(work, "done", decision.reason, seconds)
        self._journal.timeline.note("step ended", work.name, "done")
        self._journal.log(f"{work.name}: finished in {seconds:.1f} s")
        return None

    def _with_room(self, work: Work[F], action: Callable[[], T]) -> T:
        """action(), again when there was no room on the disk and there is some again.

        In a thread nobody could stop the wait: there it fails, and is done again where it is waited for.
        """
        if threading.current_thread() is threading.main_thread():
            return self._disk.with_room(work.name, action)
        return action()

    def _settle(self, work: Work[F], decision: Decision) -> F:
        if decision.keep and work.name not in self.finished:  # else it was done earlier in this session
            marker = self._ledger.marker(work.name)
            self._record(work, "kept", decision.reason, marker.seconds if marker else 0.0)
            self._journal.log(f"{work.name}: kept ({decision.reason})")
        else:
            self._clock.save()
        self.finished.add(work.name)
        return self.facts(work.key)

    def _record(self, work: StepSpec[Any], state: State, reason: str, seconds: float) -> None:
        with self._lock:
            self._records.pop(work.name, None)
            self._records[work.name] = StepRecord(work.name, work.title, state, reason, seconds)


def cause_of(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "stopped by a person"
    return f"{error}".strip() or type(error).__name__
