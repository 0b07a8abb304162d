"""One model's training until it ends: attempt after attempt in a supervised process, with a remedy between two."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from flows.context.budget_clock import BudgetClock
from flows.context.journal import Journal
from flows.ledger.facts import Planned, PlannedModel, Remedy
from flows.machine.accelerator import Accelerator
from flows.machine.conditions import MachineConditions
from flows.machine.disk import DiskSpace, Unwritable
from flows.planning.memory_limits import MemoryLimits
from flows.planning.planner import CHILD_SECONDS
from flows.planning.site import Site
from flows.supervision import paused_trainer, remedies, supervisor
from flows.supervision.model_files import ModelFiles
from flows.supervision.pace_watch import PaceWatch
from flows.supervision.remedies import RemedyChooser
from flows.supervision.supervisor import Ending
from flows.supervision.trainer_watch import TrainerWatch
from nanogpt import faults
from nanogpt.config import Config
from nanogpt.faults import UserError
from nanogpt.fit import Fit
from nanogpt.process.endings import ABORTED, CRASHED, KILLED, STALL
from nanogpt.results.training import Heartbeat, TrainerEvent, TrainingOutcome

OF_THE_DEVICE = (faults.DEVICE, STALL)  # of the other symptoms, this model's training may be the cause
LEAVES_THE_DATA_IN_DOUBT = (KILLED, ABORTED, CRASHED, STALL, faults.UNKNOWN, faults.CORRUPT_FILE)
LEAST_SECONDS = 10.0  # of training, however late it is


class DoesNotFit(RuntimeError):
    """A model that runs out of memory however it is computed. `evidence`: the last error's words."""

    def __init__(self, name: str, evidence: str):
        super().__init__(f"{name} does not fit into memory: {evidence}")
        self.name, self.evidence = name, evidence


class TooSlow(RuntimeError):
    """A model that will not have enough steps in its time, where a smaller one could. `evidence`: the figures."""

    def __init__(self, name: str, evidence: str):
        super().__init__(f"{name}: {evidence}")
        self.name, self.evidence = name, evidence


@dataclass(frozen=True)
class Assignment:
    """What is to be trained, from what, and where. `plan`: the one that it belongs to; `has_smaller`: the time could
    go to a smaller model."""

    config: Config
    config_file: Path
    data: Path
    log: Path
    site: Site
    plan: Planned
    has_smaller: bool = False

    @property
    def step(self) -> str:
        return f"training.{self.config.name}"


class Recovery:
    """The attempts at one model. `remake_data` mends damaged data; what was damaged, in words."""

    def __init__(
        self,
        assignment: Assignment,
        files: ModelFiles,
        journal: Journal,
        clock: BudgetClock,
        accelerator: Accelerator,
        disk: DiskSpace,
        limits: MemoryLimits,
        conditions: MachineConditions,
        remake_data: Callable[[], list[str]],
        pulse: Callable[[], None],
    ):
        self._assignment, self._config, self._files = assignment, assignment.config, files
        self._journal, self._clock, self._accelerator, self._disk = journal, clock, accelerator, disk
        self._limits, self._conditions, self._remake_data, self._pulse = limits, conditions, remake_data, pulse
        self._chooser = RemedyChooser(self._config)
        self.fit = self._first_fit()
        self._restart: tuple[Remedy, float] | None = None  # a remedy whose cost is not over, and since when
        self._short_of_memory_at: int | None = None  # the last step in which memory ran out and the trainer continued

    def train(self) -> TrainingOutcome:
        """The outcome of a training that finished.

        Raises DoesNotFit, TooSlow, UserError, and RuntimeError when the remedies are used up.
        """
        step = self._assignment.step
        self._let_paused_trainer_go_on()
        while True:
            self._conditions.wait_for_power(step)
            watch = TrainerWatch(
                self._config.name, self._files, self._journal, self._clock, self._pulse, self._record_mended,
                self._trains_again, self._place(),
            )  # fmt: skip
            pace = self._pace_watch()

            def follow(heartbeat: Heartbeat, watch: TrainerWatch = watch, pace: PaceWatch = pace) -> None:
                watch(heartbeat)
                pace.note(heartbeat)

            try:
                ending = supervisor.train(
                    self._arguments(),
                    self._files,
                    self._assignment.log,
                    follow,
                    device=self.fit.device,
                    step_seconds=self._planned_step_seconds(),
                    reason_to_pause=lambda: self._conditions.reason_to_pause(step),
                    reason_to_give_up=pace.reason_to_give_up,
                )
            finally:
                watch.report_events()  # what was mended in the moment before Ctrl-C is reported and remembered, too
            if isinstance(ending.outcome, TrainingOutcome) and ending.symptom == supervisor.FINISHED:
                return ending.outcome
            if ending.symptom == supervisor.GIVEN_UP:
                raise TooSlow(self._config.name, ending.evidence)
            if ending.symptom == supervisor.USER_ERROR:
                if not self._remake_data():
                    raise UserError(ending.evidence)
                ending = replace(ending, symptom=faults.CORRUPT_FILE)  # data without its manifest passes for no data
            if ending.symptom != supervisor.PAUSED:
                self._recover(ending, watch)

    def _let_paused_trainer_go_on(self) -> None:
        for number in paused_trainer.let_go_on(self._files.folder):
            evidence = (
                f"process {number}, the trainer of a start that was killed, was paused and held the model's folder"
            )
            self._journal.record(self._assignment.step, "interrupted", evidence, "it continues, saves and ends")

    def _recover(self, ending: Ending, watch: TrainerWatch) -> None:
        """Choose a remedy, apply it and record it. Raises DoesNotFit, RuntimeError."""
        ending = self._with_memory_considered(ending)
        if ending.symptom == faults.READ_ONLY:
            raise Unwritable(f"{ending.evidence}; {remedies.TABLE[faults.READ_ONLY].by_hand}")
        if ending.trusted is not None:  # also where nothing is left to try: a later start continues from here
            self._files.set_aside_all_but(ending.trusted)
        if watch.saved_steps() > 0:
            self._chooser.recovered()
        chosen = self._chooser.choose(ending.symptom, self.fit)
        if chosen is None:
            if ending.symptom == faults.OUT_OF_MEMORY:
                raise DoesNotFit(self._config.name, ending.evidence)
            raise RuntimeError(f"{self._config.name}: {self._why_it_ends(ending)}")
        before = self.fit
        remedy, self.fit = chosen
        if ending.symptom in LEAVES_THE_DATA_IN_DOUBT:
            self._remake_data()
        if remedy is remedies.MAKE_ROOM:
            self._disk.make_room(self._assignment.step, ending.evidence, self._files.folder, ending.disk_needed)
        if remedy in remedies.FOR_MEMORY and ending.symptom == faults.OUT_OF_MEMORY:
            self._limits.note(self._config, self._site, self.fit, ending.evidence)
        if remedy is remedies.CPU and before.device != "cpu" and ending.symptom in OF_THE_DEVICE:
            self._accelerator.give_up(ending.evidence)
        message = f"{ending.symptom}: {ending.evidence} -> {remedy.name}"
        self._files.append_event(TrainerEvent("remedy", watch.step, message, time.time()))  # once there is room for it
        if remedy is remedies.MAKE_ROOM:
            return  # make_room has recorded it
        row = self._record(ending.symptom, ending.evidence, remedy.name, watch.lost_seconds(), watch.steps_lost())
        self._restart = row, time.monotonic()

    def _trains_again(self) -> None:
        """What a remedy costs is known when the next process trains."""
        if self._restart:
            row, since = self._restart
            self._journal.amend(row, more_seconds=time.monotonic() - since)
            self._restart = None

    def _with_memory_considered(self, ending: Ending) -> Ending:
        """A library that does not look whether it was given memory dies by SIGSEGV, soon after torch was refused some
        (oneDNN under RLIMIT_AS): treat that abort as out of memory."""
        step = self._short_of_memory_at
        if ending.symptom != ABORTED or step is None or self._files.saved_step() > step:
            return ending
        evidence = f"{ending.evidence}, after memory had run out in step {step}"
        return replace(ending, symptom=faults.OUT_OF_MEMORY, evidence=evidence)

    def _why_it_ends(self, ending: Ending) -> str:
        row = remedies.TABLE.get(ending.symptom)
        by_hand = f"; {row.by_hand}" if row else ""
        tried = self._chooser.given.total()
        return f"{ending.symptom} ({ending.evidence}), no remedy is left after {tried}{by_hand}"

    def _record_mended(self, event: TrainerEvent) -> None:
        """A row for what the trainer has mended by itself."""
        symptom, remedy = remedies.MENDED_BY_THE_TRAINER[event.event]
        if event.event == "out_of_memory" and event.micro_batch is not None:
            self.fit = replace(self.fit, micro_batch=event.micro_batch)
            self._short_of_memory_at = event.step
            self._limits.note(self._config, self._site, self.fit, event.message)
        self._record(symptom, event.message, remedy, event.seconds_lost, event.steps_lost)

    def _record(self, symptom: str, evidence: str, remedy: str, seconds: float, steps: int) -> Remedy:
        outcome = f"{self.fit} on {self.fit.device}"
        return self._journal.record(self._assignment.step, symptom, evidence, remedy, outcome, seconds, steps)

    # -- how the next attempt is computed

    @property
    def _site(self) -> Site:
        return self._assignment.site

    def _first_fit(self) -> Fit:
        """As configured, or as an earlier session, or an earlier run, settled on when memory ran out."""
        config, configured = self._config, Fit.of(self._config)
        fit = replace(configured, micro_batch=self._files.settled_micro_batch(configured.micro_batch))
        reason = self._accelerator.reason_given_up()
        if reason:
            fit = replace(fit, device="cpu", precision="float32")
        if reason and config.device.type != "cpu":
            self._journal.message(
                f"{config.name}: on the CPU, because {config.device.type} was given up ({reason}); "
                "--redo environment.device proves it anew",
                "warning",
            )
        limit = self._limits.limit(config, self._site)
        if limit is None or limit.fits is None:
            return fit
        windows = [tokens for tokens in (fit.longest_window, limit.fits.longest_window) if tokens]
        return replace(
            fit,
            micro_batch=min(fit.micro_batch, limit.fits.micro_batch),
            gradient_checkpointing=fit.gradient_checkpointing or limit.fits.gradient_checkpointing,
            longest_window=min(windows, default=None),
        )

    def _arguments(self) -> list[str]:
        """The trainer's command line."""
        assignment, config, fit = self._assignment, self._config, self.fit
        configured = Fit.of(config)
        arguments = [str(assignment.config_file), "--data", str(assignment.data), "--folder", str(self._files.folder)]
        arguments += ["--micro-batch", str(fit.micro_batch)]
        settings: dict[str, object] = {}
        if (fit.device, fit.precision) != (configured.device, configured.precision):
            settings |= {"device.type": fit.device, "device.mixed_precision": "false"}
            if config.device.attention != "auto" or config.device.newton_schulz != "auto":  # fastest on that device
                settings |= {"device.attention": "auto", "device.newton_schulz": "auto"}
        if fit.gradient_checkpointing != configured.gradient_checkpointing:
            settings["device.gradient_checkpointing"] = "true"
        if fit.longest_window != configured.longest_window:
            settings["device.longest_window"] = fit.longest_window
        for key, value in settings.items():
            arguments += ["--set", f"{key}={value}"]
        if config.training.max_seconds is not None:
            arguments += ["--max-seconds", f"{self._seconds_to_train(config.training.max_seconds):.1f}"]
        return arguments

    def _seconds_to_train(self, planned: float) -> float:
        """Training time, over all restarts, at which this model must end: as planned, sooner when time was lost."""
        left = self._clock.left - self._seconds_after() - CHILD_SECONDS  # its own process has yet to start
        return max(LEAST_SECONDS, min(planned, self._files.saved_seconds() + left))

    def _seconds_after(self) -> float:
        """Planned for what comes after this model: the larger ones, and the later phases."""
        larger = sum(model.seconds + CHILD_SECONDS for model in self._larger())
        return larger + self._assignment.plan.seconds_after("training")

    def _larger(self) -> list[PlannedModel]:
        ladder = self._assignment.plan.ladder
        names = [model.name for model in ladder]
        return ladder[names.index(self._config.name) + 1 :] if self._config.name in names else []

    def _place(self) -> tuple[int, int, float]:
        """This model's number among those of the plan, and the seconds planned for the models after it."""
        ladder, larger = self._assignment.plan.ladder, self._larger()
        return len(ladder) - len(larger), len(ladder), sum(model.seconds for model in larger)

    def _pace_watch(self) -> PaceWatch:
        training = self._config.training
        seconds = None if training.max_seconds is None else self._seconds_to_train(training.max_seconds)
        return PaceWatch(
            self._assignment.step, training, self._planned(), seconds, self._journal, self._assignment.has_smaller
        )

    def _planned(self) -> PlannedModel | None:
        return next((model for model in self._assignment.plan.ladder if model.name == self._config.name), None)

    def _planned_step_seconds(self) -> float:
        planned = self._planned()
        return planned.seconds / max(1, planned.steps) if planned else 0.0
