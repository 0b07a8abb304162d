"""A run: a frozen record of its parts, known to phases, report and command line. Steps are found by their keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from flows.context.budget_clock import BudgetClock
from flows.context.journal import Journal
from flows.context.options import RunConfig, RunOptions
from flows.context.paths import Paths
from flows.context.watchdog import Watchdog
from flows.ledger.facts import PLANNED, Key, trained
from flows.ledger.ledger import Ledger
from flows.ledger.steps import Json, StepResult, StepSpec
from flows.machine.accelerator import Accelerator
from flows.machine.conditions import MachineConditions
from flows.machine.disk import DiskSpace
from flows.planning.budget_shares import by_the_clock
from flows.planning.lost_texts import LostTexts
from flows.planning.memory_limits import MemoryLimits
from flows.planning.missed_paces import MissedPaces, slowdown
from flows.runner.milestones import Milestones
from flows.runner.phase_runner import PhaseRunner
from flows.runner.sessions import Session
from flows.runner.step_runner import Blocked, StepRunner, Work
from nanogpt.faults import UserError
from nanogpt.process.worker import Worker

F = TypeVar("F")


def no_settings(_run: Run) -> Json:
    return {}


@dataclass(frozen=True, kw_only=True)
class Step(StepSpec[F], Generic[F]):
    """A step with its work, and the slice of the configuration that its result depends on."""

    work: Callable[[Run], StepResult[F]]
    settings: Callable[[Run], Json] = no_settings


AnyStep = Step[Any]


# `first`: the text is fetched before the plan is made; `planned`: the plan says which; `in pieces`: that, and it is
# large.
TextOrder = Literal["first", "planned", "in pieces"]


@dataclass(frozen=True)
class StepsWanted:
    """What a phase needs to know to name its steps: the models, whether the project's tests run, all earlier steps, and
    when the text is known."""

    models: Sequence[str]
    with_tests: bool
    before: Sequence[AnyStep]
    text: TextOrder = "first"


@dataclass(frozen=True)
class Phase:
    """One of the phases of full_run.py: a function of the run, and the steps that it does.

    `prefetch`: steps of later phases that start in the background while this one works. `missed`: why what its finished
    steps have made is not what the run is for, and "" where it is; the phase then fails with these words each time.
    """

    name: str
    work: Callable[[Run], None]
    steps: Callable[[StepsWanted], Sequence[AnyStep]]
    prefetch: tuple[Key[Any], ...] = ()
    missed: Callable[[Run], str] = lambda run: ""


@dataclass(frozen=True)
class Run:
    options: RunOptions
    phases: tuple[Phase, ...]
    paths: Paths
    clock: BudgetClock
    journal: Journal
    ledger: Ledger
    worker: Worker
    disk: DiskSpace
    conditions: MachineConditions
    accelerator: Accelerator
    limits: MemoryLimits
    missed_paces: MissedPaces
    lost_texts: LostTexts
    milestones: Milestones
    step_runner: StepRunner
    phase_runner: PhaseRunner
    session: Session
    watchdog: Watchdog
    pulse: Callable[[], None]

    @property
    def config(self) -> RunConfig:
        return self.options.config

    # -- steps, by their keys

    def do(self, key: Key[F]) -> F:
        """Keep or do a step; its facts. Raises what its work raises, Blocked without its inputs."""
        return self.step_runner.do(self._work(key))

    def start_in_background(self, key: Key[F]) -> Callable[[], F]:
        """Start a short step next to what follows; the returned function waits for it and gives its facts."""
        return self.step_runner.start_in_background(self._work(key))

    def facts(self, key: Key[F]) -> F:
        """The facts of a step that has finished in this session. Raises Blocked for any other."""
        return self.step_runner.facts(key)

    def has_finished(self, key: Key[Any]) -> bool:
        return key.step in self.step_runner.finished

    def would_keep(self, key: Key[Any]) -> bool:
        """Whether a step would be kept, as far as its own marker says: the steps before it may still change."""
        step = self.step(key)
        return step.name not in self.options.redo and self.ledger.decide(step, step.settings(self)).keep

    def step(self, key: Key[F]) -> Step[F]:
        return next(step for step in self.steps() if step.name == key.step)

    def steps(self) -> list[AnyStep]:
        """Every step of this run, in order."""
        return steps_of(self.phases, self.models(), self.config.tests, self.text_order)

    @property
    def text_order(self) -> TextOrder:
        if not self.options.text_by_plan:
            return "first"
        marker = self.ledger.finished_before(PLANNED.step)  # the last one counts while another is made
        text = marker.facts.get("text") if marker else None
        return "in pieces" if text and text["in_pieces"] else "planned"

    def _work(self, key: Key[F]) -> Work[F]:
        step = self.step(key)
        return Work(
            key=step.key,
            title=step.title,
            needs=step.needs,
            code=step.code,
            costly=step.costly,
            needs_at_least=step.needs_at_least,
            decides=step.decides,
            run=lambda: step.work(self),
            settings=lambda: step.settings(self),
        )

    def models(self) -> list[str]:
        """The models that the plan chose; before there is a plan, those it may choose from."""
        planned = self.ledger.facts(PLANNED)
        return [model.name for model in planned.ladder] if planned else self.options.candidate_names

    # -- phases

    @property
    def is_late(self) -> bool:
        """Whether the phase under way and those after it would outlast the budget, as slow as this machine has proved
        since they were planned. A phase that a person asks for alone takes what it takes."""
        if self._takes_what_it_takes:
            return False
        phase = self.phase_runner.running()
        taken = sum(step.seconds for step in self.step_runner.records(phase) if step.state == "done")
        return self.spare_seconds < max(0.0, self._expected_seconds(phase) - taken)

    @property
    def spare_seconds(self) -> float:
        """What the phase under way may take, so that those after it have the time that they were planned with."""
        if self._takes_what_it_takes:
            return math.inf
        after = self.facts(PLANNED).phases_after(self.phase_runner.running())
        return self.clock.left - sum(self._expected_seconds(phase.name) for phase in after)

    @property
    def _takes_what_it_takes(self) -> bool:
        return self.options.only is not None or not self.has_finished(PLANNED)

    def _expected_seconds(self, phase: str) -> float:
        """Of a phase, as slow as this machine has proved; what the clock ends takes no longer on a slow one."""
        planned = self.facts(PLANNED).phase_seconds(phase)
        clocked = min(planned, by_the_clock(phase, self.config.budget))
        return clocked + self._slowness() * (planned - clocked)

    def _slowness(self) -> float:
        """How many times the planned seconds the last training of this session took: what follows will, too."""
        done = {step.name for step in self.step_runner.records("training") if step.state == "done"}
        ladder = [model for model in self.facts(PLANNED).ladder if trained(model.name).step in done]
        return max([1.0] + [slowdown(model, self.facts(trained(model.name))) for model in ladder[-1:]])

    def run_phase(self, phase: Phase) -> None:
        """Run a phase. Its failure is recorded, and never stops what can still run."""
        if self.options.only == phase.name:
            self._accept_finished_steps()
        names = [step.name for step in self.steps()]
        for key in phase.prefetch if self.options.only is None else ():
            if key.step in names:
                self.step_runner.prefetch(self._work(key))  # outside the phase, which would fail with it
        self.phase_runner.run(phase.name, lambda: phase.work(self))

    def _accept_finished_steps(self) -> None:
        """With --only, the other phases' steps count as they are, when their outputs are whole."""
        finished = self.step_runner.finished
        for step in by_need(self.steps()):
            if step.phase != self.options.only and set(step.needs) <= finished:
                with suppress(OSError, UserError, Blocked):  # what its settings are read from is not there
                    if self.ledger.decide(step, step.settings(self)).keep:
                        finished.add(step.name)

    def milestone(self, phase: str, title: str, body: str, files: Sequence[Path]) -> None:
        """Commit small artefacts on the branch autopilot/<run>; HEAD, index and work tree stay as they are.

        Nothing is committed for a phase whose steps were all kept, unless a kill came between them and their commit.
        """
        all_kept = all(record.state == "kept" for record in self.step_runner.records(phase))
        known = {commit.title for commit in self.milestones.commits()}
        if not self.config.milestones or (all_kept and " ".join(title.split()) in known):
            return
        commit = self.milestones.commit(title, body, files)
        if (commit is None or self.milestones.is_elsewhere) and (problem := self.milestones.problem()):
            self.journal.message_once(problem, "warning")
        if commit:
            self.journal.log(f"milestone {commit[:10]}: {title}")
        else:
            self.journal.log(f"no milestone for {title!r}: {self.milestones.reason}", "warning")


def steps_of(
    phases: Sequence[Phase], models: Sequence[str], with_tests: bool = True, text: TextOrder = "first"
) -> list[AnyStep]:
    """Every step of a run that trains `models`, in order."""
    steps: list[AnyStep] = []
    for phase in phases:
        steps += phase.steps(StepsWanted(models, with_tests, tuple(steps), text))
    return steps


def by_need(steps: Iterable[AnyStep]) -> list[AnyStep]:
    """Each step after those it needs."""
    named = {step.name: step for step in steps}
    order = TopologicalSorter({step.name: step.needs for step in named.values()}).static_order()
    return [named[name] for name in order if name in named]
