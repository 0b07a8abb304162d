"""Everything that the documents of a run say, as one typed record: facts.json, from which all of them are rendered."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from flows.context.provenance import versions
from flows.context.timeline import Moment
from flows.ledger.facts import (
    BASELINES,
    EVALUATED,
    PLANNED,
    TESTS,
    Key,
    Remedy,
    Trained,
    trained,
)
from flows.ledger.markers import FAILED
from flows.machine.energy import Energy
from flows.runner.milestones import Milestone
from flows.runner.run import Run
from flows.runner.step_runner import StepRecord
from nanogpt.config import Config, load_config
from nanogpt.faults import UserError
from nanogpt.records import from_json, to_json

F = TypeVar("F")


@dataclass(frozen=True)
class PhaseFacts:
    """What became of a phase; `seconds` is None where no step of it ran or was kept, and leaves out the project's own
    tests, which take what a plan keeps for a slow machine."""

    number: int
    title: str
    status: str
    seconds: float | None = None
    planned_seconds: float | None = None
    cause: str | None = None
    next_command: str | None = None
    steps: list[StepRecord] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.title.lower()


@dataclass(frozen=True)
class UnfinishedTraining:
    message: str
    status: str = "failed"


@dataclass(frozen=True)
class ModelFacts:
    """A model of the plan, in the folder where it is trained; `facts`: None before it has been."""

    name: str
    folder: str
    facts: Trained | UnfinishedTraining | None = None

    @property
    def trained(self) -> Trained | None:
        return self.facts if isinstance(self.facts, Trained) and self.facts.status == "finished" else None


@dataclass(frozen=True)
class RunFacts:
    """`steps`: the facts of each step that has finished, by its name; read them with `of`."""

    run: str
    workspace: str
    command: str
    prefect_url: str | None
    versions: dict[str, str]
    started: str
    ended: str
    sessions: int
    budget_seconds: float
    spent_seconds: float
    min_charge: float
    phases: list[PhaseFacts]
    steps: dict[str, Any]
    models: list[ModelFacts]
    remedies: list[Remedy]
    milestones: list[Milestone]
    configs: dict[str, Config]
    environment: str = ""  # the virtual environment of the run; "" where it has none
    milestone_branch: str = ""
    milestone_problem: str = ""  # why there are none, or why they are on an unusual branch
    documents: list[str] | None = None  # names of those that were written; None before any
    length_settings: list[str] = field(default_factory=list)  # that a person made: what ends a training
    energy: Energy = field(default_factory=Energy)  # that the machine used meanwhile
    timeline: list[Moment] = field(default_factory=list)  # of all its sessions

    def of(self, key: Key[F]) -> F | None:
        """The facts of a step, or None where it did not finish, or left facts of another form."""
        value = self.steps.get(key.step)
        try:
            return from_json(key.kind, value) if value is not None else None
        except ValueError:
            return None

    def phase(self, name: str) -> PhaseFacts:
        return next(phase for phase in self.phases if phase.name == name)

    def model(self, name: str) -> ModelFacts:
        return next(model for model in self.models if model.name == name)


def collect(run: Run) -> RunFacts:
    """The facts of a run as it stands."""
    names = run.models()
    return RunFacts(
        run=run.options.run,
        workspace=str(run.paths.workspace),
        command=run.options.command,
        prefect_url=run.journal.display.url,
        versions=versions(),
        started=run.session.started,
        ended=datetime.now().isoformat(sep=" ", timespec="seconds"),
        sessions=run.session.number,
        budget_seconds=run.config.budget,
        spent_seconds=round(run.clock.spent, 1),
        min_charge=run.config.min_charge,
        phases=_phases(run),
        steps=_steps(run),
        models=[model_of(run, name) for name in names],
        remedies=all_remedies(run),
        milestones=run.milestones.commits(),
        environment=sys.prefix if sys.prefix != sys.base_prefix else "",
        milestone_branch=run.milestones.branch,
        milestone_problem=run.milestones.problem() if run.config.milestones else "milestones are off",
        configs={name: config for name in names if (config := config_of(run, name))},
        length_settings=sorted(run.options.length_settings),
        energy=run.conditions.energy.look(),
        timeline=run.journal.timeline.moments(),
    )


def all_remedies(run: Run) -> list[Remedy]:
    """Of every session since the run began, as they came."""
    markers = [run.ledger.marker(step.name) for step in run.steps()]
    kept = [row for marker in markers if marker for row in marker.remedies]
    rows = dict.fromkeys([*kept, *run.journal.past_remedies, *run.journal.remedies])
    return sorted(rows, key=lambda row: row.when)


def facts_of(run: Run, key: Key[F]) -> F | None:
    """A finished step's facts; None where its phase failed or was blocked before it, for then they are of the past."""
    phase = run.phase_runner.record(key.step.partition(".")[0])
    return None if phase.cause and not run.has_finished(key) else run.ledger.facts(key)


def _steps(run: Run) -> dict[str, Any]:
    found = {step.name: facts_of(run, step.key) for step in run.steps()}
    facts: dict[str, Any] = {name: to_json(value) for name, value in found.items() if value is not None}
    evaluated, baselines = facts_of(run, EVALUATED), facts_of(run, BASELINES)
    if evaluated and baselines:
        bits = evaluated.models[evaluated.best].test.bits_per_byte
        facts[BASELINES.step]["model"] = bits if math.isfinite(bits) else None
    return facts


def _phases(run: Run) -> list[PhaseFacts]:
    planned = facts_of(run, PLANNED)
    rows = []
    for record in run.phase_runner.records:
        steps = run.step_runner.records(record.name)
        planned_for = [step.seconds for step in steps if step.name != TESTS.step]
        rows.append(
            PhaseFacts(
                number=record.number,
                title=record.title,
                status=record.status,
                seconds=sum(planned_for) if planned_for else None,
                planned_seconds=planned.phase_seconds(record.name) if planned else None,
                cause=record.cause,
                next_command=record.next_command,
                steps=steps,
            )
        )
    return rows


def model_of(run: Run, name: str) -> ModelFacts:
    key, folder = trained(name), str(run.paths.model(name))
    if facts := facts_of(run, key):
        return ModelFacts(name, folder, facts)
    marker = run.ledger.marker(key.step)
    failed = marker is not None and marker.state == FAILED
    return ModelFacts(name, folder, UnfinishedTraining(marker.cause) if marker and failed else None)


def config_of(run: Run, name: str) -> Config | None:
    try:
        return load_config(run.paths.config(name))
    except UserError:
        return None
