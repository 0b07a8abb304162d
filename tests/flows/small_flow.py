"""A flow of five small steps, and the parts of a run around them; each start sees what a new process would see."""

from dataclasses import dataclass
from pathlib import Path

from flows.cli.command_line import parse
from flows.context.action_log import ActionLog
from flows.context.budget_clock import BudgetClock
from flows.context.command_words import PHASES
from flows.context.journal import Journal
from flows.context.options import RunOptions
from flows.context.paths import CHECKOUT, Paths
from flows.display.protocol import Opening
from flows.ledger.facts import Key
from flows.ledger.ledger import Ledger
from flows.ledger.steps import StepResult
from flows.machine.disk import DiskSpace
from flows.runner.assembly import assemble
from flows.runner.phase_runner import PhaseRunner
from flows.runner.run import AnyStep, Phase, Run, Step
from flows.runner.step_runner import StepRunner, Work
from nanogpt import durable

COMMAND = "python3 -m flows.full_run"


@dataclass(frozen=True)
class Made:
    by: str


DEVICE, FETCH, TRAIN, JUDGE, REPORT = (
    Key(name, Made)
    for name in (
        "environment.device",
        "dataset.fetch",
        "training.micro",
        "evaluation.judge",
        "documentation.report",
    )
)
ALL = [key.step for key in (DEVICE, FETCH, TRAIN, JUDGE, REPORT)]
NEEDS = {TRAIN: (FETCH.step,), JUDGE: (TRAIN.step,)}


class Flow:
    """A workspace, what its steps do there, and how they are to fail."""

    def __init__(self, folder: Path):
        self.workspace = folder / "workspace"
        self.workspace.mkdir()
        self.worked: list[str] = []  # names of the steps that ran, in order
        self.failing: dict[str, BaseException] = {}
        self.left_out: dict[str, str] = {}  # why the work of a step is not done
        self.settings: dict[str, dict] = {}

    def work(self, key: Key[Made], **more) -> Work[Made]:
        """A step as the step runner takes it."""
        return Work(
            key=key,
            title=title_of(key),
            needs=NEEDS.get(key, ()),
            run=lambda: self.make(key.step),
            settings=lambda: self.settings_of(key.step),
            **more,
        )

    def step(self, key: Key[Made], **more) -> Step[Made]:
        """The same step, as a phase lists it."""
        more = {"needs": NEEDS.get(key, ()), "work": lambda run: self.make(key.step), **more}
        return Step(key=key, title=title_of(key), settings=lambda run: self.settings_of(key.step), **more)

    def make(self, name: str) -> StepResult[Made]:
        self.worked.append(name)
        if name in self.failing:
            raise self.failing[name]
        if name in self.left_out:
            return StepResult(Made("nothing"), left_out=self.left_out[name])
        output = self.workspace / "data/default" / f"{name}.bin"
        durable.write_text(output, name)
        return StepResult(Made(name), [output])

    def settings_of(self, name: str) -> dict:
        settings = self.settings.get(name, {})
        if isinstance(settings, BaseException):
            raise settings
        return settings

    def phases(self, **more: AnyStep) -> list[Phase]:
        """Eight phases that do the five steps; `more`: another step in a phase, done first."""
        ours = {key.step.partition(".")[0]: self.step(key) for key in (DEVICE, FETCH, TRAIN, JUDGE, REPORT)}

        def phase(name: str) -> Phase:
            steps = [step for step in (more.get(name), ours.get(name)) if step is not None]
            prefetch = (FETCH,) if name == "implementation" else ()
            return Phase(name, lambda run: [run.do(step.key) for step in steps], lambda wanted: steps, prefetch)

        return [phase(name) for name in PHASES]

    def arguments(self, *more: str) -> list[str]:
        settings = ("--budget", "10m", "--set", "milestones=false", "--set", "ladder=[micro]", "--data", "embedded")
        return ["--workspace", str(self.workspace), *settings, *more]

    def options(self, *more: str) -> RunOptions:
        return parse(self.arguments(*more), self.phases())

    def run(self, *more: str, phases: list[Phase] | None = None) -> Run:
        return assemble(self.options(*more), phases or self.phases())

    def session(self, *more: str) -> Run:
        """All of the flow, once."""
        self.worked.clear()
        run = self.run(*more)
        run.session.begin()
        run.journal.display.flow(lambda: self.do_phases(run), Opening("default"))
        run.session.end(stopped=False)
        return run

    def do_phases(self, run: Run) -> None:
        for phase in run.phases:
            run.run_phase(phase)

    def note(self, name: str) -> dict:
        return durable.read_json(self.workspace / "state/default" / name)

    @property
    def ended(self) -> str:
        return self.note("session.json")["state"]

    @property
    def log(self) -> str:
        return (self.workspace / "logs/default/automation_log.txt").read_text()


class Parts:
    """What runs steps and phases, without the rest of a run."""

    def __init__(self, flow: Flow, redo: tuple[str, ...] = (), only: str | None = None):
        self.flow, self.paths = flow, Paths(flow.workspace, "default")
        self.journal = Journal(ActionLog(self.paths.logs / "automation_log.txt"), self.paths.state / "remedies.json")
        self.clock = BudgetClock(self.paths.state / "clock.json", 600.0)
        self.ledger = Ledger(self.paths.markers, flow.workspace, CHECKOUT)
        disk = DiskSpace(self.paths, self.journal, self.clock, lambda: None, lambda: None)
        self.pulses = 0
        self.steps = StepRunner(self.ledger, self.journal, disk, self.clock, redo, self.pulse, lambda step: None)
        self.phases = PhaseRunner(PHASES, self.journal, self.steps, self.clock, only, COMMAND)
        self.paths.state.mkdir(parents=True, exist_ok=True)
        self.paths.logs.mkdir(parents=True, exist_ok=True)

    def pulse(self) -> None:
        self.pulses += 1

    def do(self, *keys: Key[Made]) -> list[Made]:
        return [self.steps.do(self.flow.work(key)) for key in keys]

    def run_phases(self) -> None:
        """Each step in its phase."""
        for key in (DEVICE, FETCH, TRAIN, JUDGE, REPORT):
            self.phases.run(key.step.partition(".")[0], lambda key=key: self.do(key))

    def states(self) -> dict[str, str]:
        return {step.name: step.state for phase in PHASES for step in self.steps.records(phase)}

    def statuses(self) -> dict[str, str]:
        return statuses(self.phases)


def statuses(phases: PhaseRunner) -> dict[str, str]:
    return {record.name: record.status for record in phases.records}


def title_of(key: Key[Made]) -> str:
    return key.step.partition(".")[2].capitalize()
