"""Parts of a run, each built as a test needs it, and the facts that a first step of a run would leave."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from flows.cli.command_line import parse
from flows.context.action_log import ActionLog
from flows.context.budget_clock import BudgetClock
from flows.context.journal import Journal
from flows.context.paths import Paths
from flows.display.plain import PlainDisplay
from flows.display.protocol import Level
from flows.ledger.facts import (
    CHECKS,
    DEVICE,
    FETCHED,
    SYSTEM,
    Checks,
    FetchedText,
    Key,
    NoFacts,
    Planned,
    PlannedModel,
    System,
)
from flows.ledger.steps import StepResult, StepSpec
from flows.machine.accelerator import Accelerator
from flows.machine.conditions import MachineConditions
from flows.machine.disk import DiskSpace
from flows.machine.energy import EnergyMeter
from flows.planning.memory_limits import MemoryLimits
from flows.planning.site import Site
from flows.runner.assembly import assemble
from flows.runner.run import Phase, Run, Step
from flows.supervision.model_files import ModelFiles
from flows.supervision.recovery import Assignment, Recovery
from nanogpt.config import Config, save_config
from nanogpt.results.machine import DeviceProof
from nanogpt.results.training import TrainingOutcome
from nanogpt.units import GIB

F = TypeVar("F")
BUDGET = 3600.0
SITE = Site("cpu", 64 * GIB, 65)


class RecordingDisplay(PlainDisplay):
    """Shows nothing, and remembers the notes."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[Level, str]] = []

    def note(self, message: str, level: Level = "info") -> None:
        self.notes.append((level, message))


class StandInWorker:
    """A worker whose calls are `answer(function's name, arguments)` in this process."""

    def __init__(self, answer=None):
        self.answer = answer
        self.asked: list[Any] = []  # for which device
        self.killed = 0
        self.words = ""

    def call(self, target: str, *, timeout: float, **arguments: Any) -> Any:
        assert 0 < timeout <= 3600  # whatever hangs must not hold the run
        self.asked.append(arguments.get("device", arguments.get("asked")))
        return self.answer(target.partition(":")[2], arguments)

    def said(self) -> str:
        return self.words

    def close(self, kill: bool = False) -> None:
        self.killed += kill


class Parts:
    """The parts of a run in `workspace` that need no steps: what one writes, another reads."""

    def __init__(self, workspace: Path, run: str = "default", budget: float = BUDGET, min_charge: float = 20.0):
        self.paths = Paths(workspace, run)
        for folder in self.paths.folders():
            folder.mkdir(parents=True, exist_ok=True)
        self.display = RecordingDisplay()
        self.log_file = self.paths.logs / "automation_log.txt"
        self.journal = Journal(ActionLog(self.log_file), self.paths.state / "remedies.json", self.display)
        self.clock = BudgetClock(self.paths.state / "clock.json", budget)
        self.worker = StandInWorker()
        self.pulses = 0
        self.disk = DiskSpace(self.paths, self.journal, self.clock, self.pulse, self.worker.close)
        energy = EnergyMeter(self.paths.state / "energy.json")
        self.conditions = MachineConditions(self.journal, self.clock, min_charge, self.pulse, energy)
        self.accelerator = Accelerator(self.paths.state / "device.json", self.journal, self.worker)
        self.limits = MemoryLimits(self.paths.all_states, self.journal, frozenset(), lambda: "")

    def pulse(self) -> None:
        self.pulses += 1

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def symptoms(self) -> list[str]:
        return [row.symptom for row in self.journal.remedies]

    def recovery(self, config: Config, remake_data=lambda: [], site: Site = SITE, **planned: Any) -> Recovery:
        """The training of `config`, alone in its plan; its folder is there."""
        file, files = self.paths.config(config.name), ModelFiles(self.paths.model(config.name))
        save_config(config, file)
        files.folder.mkdir(exist_ok=True)
        data, log = self.paths.data / config.data.tokenizer, self.paths.logs / f"{config.name}.log"
        assignment = Assignment(config, file, data, log, site, plan(config.name, **planned))
        return Recovery(assignment, files, self.journal, self.clock, self.accelerator, self.disk, self.limits,
                        self.conditions, remake_data, self.pulse)  # fmt: skip


def assembled(workspace: Path, phases: Sequence[Phase], worker: StandInWorker | None = None, *arguments: str) -> Run:
    """A run as `arguments` ask for it, before its session begins, of a text that is known; nothing is committed."""
    known = ["--set", "milestones=false", "--set", "data.source=tiny_shakespeare"]
    options = parse(["--workspace", str(workspace), *known, *arguments], phases)
    run = assemble(options, phases)
    run.paths.state.mkdir(parents=True, exist_ok=True)
    if worker is None:
        return run
    accelerator = Accelerator(run.paths.state / "device.json", run.journal, worker)
    return replace(run, worker=worker, accelerator=accelerator)


def one_step(name: str, work: Callable[[Run], object], key: str = "") -> Phase:
    """A phase with one step, without facts; it does `work`."""
    step = Key(key or f"{name}.all", NoFacts)

    def do(run: Run) -> StepResult[NoFacts]:
        work(run)
        return StepResult(NoFacts())

    return Phase(name, lambda run: run.do(step) and None, lambda wanted: [Step(key=step, title=name, work=do)])


def finish(run: Run, key: Key[F], facts: F, files: Iterable[Path] = ()) -> None:
    """As if a step had left `facts` in this session."""
    step = StepSpec(key=key, title=key.step)
    run.ledger.start(step, {}, "never run")
    run.ledger.finish(step, StepResult(facts, list(files)), seconds=1.0)
    run.step_runner.finished.add(key.step)


def finish_system(run: Run) -> None:
    system = System(python="3.11", platform="any", processor="a processor", cores=2, physical_cores=2,
                    memory_bytes=64 * GIB, memory_available_bytes=64 * GIB, disk_free_bytes=64 * GIB,
                    disk_needed_bytes=GIB, checks=[])  # fmt: skip
    finish(run, SYSTEM, system)


def finish_beginning(run: Run, text_bytes: int = 10**9) -> None:
    """As if the device were proved and the text fetched."""
    finish(run, DEVICE, proof())
    finish(run, CHECKS, Checks("cpu", passed=0, failed=0, checks=[], warning=""))
    finish(run, FETCHED, fetched(text_bytes))


def proof(device: str = "cpu", memory_bytes: int = 64 * GIB) -> DeviceProof:
    return DeviceProof(
        device, name="a processor", torch="2.13", platform="any", memory_bytes=memory_bytes, bfloat16=True,
        asked=device, warning="", candidates=[], max_relative_error=None, float32_flops=2e11, bfloat16_flops=4e11,
    )  # fmt: skip


def fetched(text_bytes: int = 10**9, alphabet_size: int = 65) -> FetchedText:
    return FetchedText(
        source="own", origin="here", sha256="", bytes=text_bytes, documents=1, files=[], characters=text_bytes,
        alphabet_size=alphabet_size, fallback_reason=None, licence=None,
    )  # fmt: skip


def plan(*names: str, seconds: float = 600.0, max_iters: int = 1000) -> Planned:
    """A plan for models by name."""
    ladder = [
        PlannedModel(name, parameters=1, n_layer=1, n_head=1, n_embd=1, block_size=64, tokenizer="char",
                     precision="float32", batch_size=12, gradient_accumulation=1, max_iters=max_iters, tokens=1,
                     seconds=seconds, memory_bytes=1, expected_bits_per_byte=2.0, why="")
        for name in names
    ]  # fmt: skip
    return Planned(BUDGET, ladder, [], [])


def outcome(status: str = "finished", **changes: Any) -> TrainingOutcome:
    """What a trainer leaves at its end."""
    return TrainingOutcome(**{
        "status": status, "reason": "max_iters", "step": 3, "seconds": 1.0, "tokens": 1, "best_val_loss": 1.8,
        "best_step": 3, "best_is_average": False, "skipped": 0, "rewinds": 0, "final_val_loss": 1.8, "sha256": "0" * 64,
        "parameters": 1, "tokens_per_second": 1.0, "peak_memory_bytes": 1, "device": "cpu", "precision": "float32",
        "micro_batch": 12, "context": 64, **changes,
    })  # fmt: skip
