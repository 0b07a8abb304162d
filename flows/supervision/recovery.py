"""One model's training until it ends: attempt after attempt in a supervised process, and between them the remedies."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

from flows.machine import accelerator, disk
from flows.phases import dataset
from flows.planning import memory_limits as remembered
from flows.planning.planner import CHILD_SECONDS
from flows.runner.interruption import saved_step
from flows.runner.run import Run
from flows.supervision import remedies, supervisor
from flows.supervision.remedies import Attempt, Doctor, Remedy
from flows.supervision.supervisor import Ending
from flows.supervision.trainer_watch import Progress
from nanogpt import durable, faults
from nanogpt.config import Config
from nanogpt.faults import UserError

AGAINST_MEMORY = (remedies.HALVE, remedies.RECOMPUTE, remedies.SHORTEN)
SAYS_THAT_THE_DEVICE_FAILS = (faults.DEVICE, "stall")  # of the other symptoms, this model's training may be the cause
LEAVES_THE_DATA_IN_DOUBT = ("killed", "aborted", "crashed", "stall", faults.UNKNOWN, faults.CORRUPT_FILE)


class DoesNotFit(RuntimeError):
    """A model that runs out of memory however it is computed. `evidence`: the last error's words."""

    def __init__(self, name: str, evidence: str):
        super().__init__(f"{name} does not fit into memory: {evidence}")
        self.name, self.evidence = name, evidence


class Treatment:
    """The attempts at one model."""

    def __init__(self, run: Run, config: Config, folder: Path):
        self.run, self.config, self.folder = run, config, folder
        self.step = f"training.{config.name}"
        self.doctor = Doctor()
        self.attempt = first_attempt(run, config, folder)
        self.restart: tuple[dict, float] | None = None  # the row of a remedy whose cost is not over, and since when
        self.starved_at: int | None = None  # the last step in which memory ran out and the trainer went on

    def until_it_ends(self) -> Ending:
        """The ending of a training that finished.

        Raises DoesNotFit, UserError, and RuntimeError when the remedies are used up.
        """
        while True:
            self.run.surroundings.wait_for_power(self.step)
            progress = Progress(self.run, self.config, self.folder, self._mended_by_the_trainer, self._trains_again)
            try:
                ending = supervisor.train(
                    self._arguments(), self.folder, self.run.paths.logs / f"{self.config.name}.log", progress,
                    device=self.attempt.device, step_seconds=self._planned_step_seconds(),
                    reason_to_pause=lambda: self.run.surroundings.reason_to_pause(self.step),
                )  # fmt: skip
            finally:
                progress.tell_events()  # what was mended in the moment before Ctrl-C is told and remembered, too
            if not ending.symptom:
                return ending
            if ending.symptom == "user_error":
                if not dataset.remake_damaged(self.run):
                    raise UserError(ending.evidence)
                ending = replace(ending, symptom=faults.CORRUPT_FILE)  # data without its manifest passes for no data
            if ending.symptom != "paused":
                self._treat(ending, progress)

    def _planned_step_seconds(self) -> float:
        rungs = self.run.ledger.facts("configuration.plan").get("ladder", [])
        planned = (rung["seconds"] / rung["max_iters"] for rung in rungs if rung["name"] == self.config.name)
        return next(planned, 0.0)

    def _treat(self, ending: Ending, progress: Progress) -> None:
        """Choose a remedy, apply it and record it. Raises DoesNotFit, RuntimeError."""
        ending = self._told_apart(ending)
        if ending.symptom == faults.READ_ONLY:
            raise disk.Unwritable(f"{ending.evidence}; {remedies.TABLE[faults.READ_ONLY].told}")
        if ending.trusted is not None:  # also where nothing is left to try: a later start goes on from here
            set_aside_all_but(ending.trusted, self.folder)
        if progress.saved_steps() > 0:
            self.doctor.recovered()
        prescription = self.doctor.prescribe(ending.symptom, self.attempt)
        if prescription is None:
            if ending.symptom == faults.OUT_OF_MEMORY:
                raise DoesNotFit(self.config.name, ending.evidence)
            raise RuntimeError(f"{self.config.name}: {self._why_it_ends(ending)}")
        before = self.attempt
        remedy, self.attempt = prescription
        if ending.symptom in LEAVES_THE_DATA_IN_DOUBT:
            dataset.remake_damaged(self.run)
        if remedy is remedies.MAKE_ROOM:
            disk.make_room(self.run, self.step, ending.evidence, self.folder, ending.outcome.get("needed"))
            append_event(self.folder, _as_event(remedy, ending, progress))
            return
        if remedy in AGAINST_MEMORY and ending.symptom == faults.OUT_OF_MEMORY:
            remembered.note(self.run, self.config, asdict(self.attempt), ending.evidence)
        if remedy is remedies.CPU and before.device != "cpu" and ending.symptom in SAYS_THAT_THE_DEVICE_FAILS:
            accelerator.give_up(self.run, ending.evidence)
        append_event(self.folder, _as_event(remedy, ending, progress))
        row = self._record(ending.symptom, ending.evidence, remedy.name, progress.lost_seconds(), progress.steps_lost())
        self.restart = row, time.monotonic()

    def _trains_again(self) -> None:
        """What a remedy costs is known when the next process trains."""
        if self.restart:
            row, since = self.restart
            self.run.add_cost(row, time.monotonic() - since)
            self.restart = None

    def _told_apart(self, ending: Ending) -> Ending:
        """A library that does not look whether it was given memory dies by SIGSEGV, soon after torch was refused some
        (oneDNN under RLIMIT_AS); such an abort is no riddle."""
        starved_at = self.starved_at
        if ending.symptom != "aborted" or starved_at is None or saved_step(self.folder) > starved_at:
            return ending
        told = f"{ending.evidence}, after memory had run out in step {starved_at}"
        return replace(ending, symptom=faults.OUT_OF_MEMORY, evidence=told)

    def _why_it_ends(self, ending: Ending) -> str:
        row = remedies.TABLE.get(ending.symptom)
        tried = sum(self.doctor.given.values())
        told = f"; {row.told}" if row else ""
        return f"{ending.symptom} ({ending.evidence}), no remedy is left after {tried}{told}"

    def _mended_by_the_trainer(self, event: dict) -> None:
        """A row for what the trainer has mended by itself."""
        symptom, remedy = remedies.MENDED_BY_THE_TRAINER[event["event"]]
        if event["event"] == "out_of_memory":
            self.attempt = replace(self.attempt, micro_batch=event["micro_batch"])
            self.starved_at = event["step"]
            remembered.note(self.run, self.config, asdict(self.attempt), event["message"])
        self._record(symptom, event["message"], remedy, event.get("seconds_lost", 0.0), event.get("steps_lost", 0))

    def _record(self, symptom: str, evidence: str, remedy: str, seconds: float, steps: int) -> dict:
        return self.run.remedy(
            step=self.step, symptom=symptom, evidence=evidence, remedy=remedy, outcome=self._how(),
            cost_seconds=round(seconds, 1), steps_lost=steps,
        )  # fmt: skip

    def _how(self) -> str:
        """How the training goes on."""
        attempt = self.attempt
        how = [f"micro-batch {attempt.micro_batch}", attempt.device]
        if attempt.gradient_checkpointing:
            how.append("gradient checkpointing")
        if attempt.longest_window < self.config.model.block_size:
            how.append(f"windows of {attempt.longest_window}")
        return ", ".join(how)

    def _arguments(self) -> list[str]:
        run, config, attempt = self.run, self.config, self.attempt
        arguments = [
            str(run.paths.configs / f"{config.name}.yaml"), "--data", str(run.paths.data / config.data.tokenizer),
            "--folder", str(self.folder), "--micro-batch", str(attempt.micro_batch),
        ]  # fmt: skip
        settings = {}
        if (attempt.device, attempt.mixed_precision) != (config.device.type, bool(config.device.mixed_precision)):
            settings |= {"device.type": attempt.device, "device.mixed_precision": "false"}
        if attempt.gradient_checkpointing != config.device.gradient_checkpointing:
            settings["device.gradient_checkpointing"] = "true"
        if attempt.longest_window != config.context:
            settings["device.longest_window"] = attempt.longest_window
        for key, value in settings.items():
            arguments += ["--set", f"{key}={value}"]
        if config.training.max_seconds is not None:
            arguments += ["--max-seconds", f"{seconds_to_train(run, config, self.folder):.1f}"]
        return arguments


def first_attempt(run: Run, config: Config, folder: Path) -> Attempt:
    """As configured, or as an earlier session of this training, or an earlier run, settled on when memory ran out."""
    given_up = accelerator.reason_given_up(run)
    if given_up and config.device.type != "cpu":
        run.tell(f"{config.name}: on the CPU, for {config.device.type} was given up ({given_up}); "
                 "--redo environment.device proves it anew", "warning")  # fmt: skip
    known = remembered.settled(run, config) or {}
    micro_batch = min(_micro_batch(config, folder), known.get("micro_batch") or config.training.batch_size)
    return Attempt(
        micro_batch=micro_batch, device="cpu" if given_up else config.device.type,
        mixed_precision=bool(config.device.mixed_precision) and not given_up,
        longest_window=min(config.context, known.get("longest_window") or config.context),
        gradient_checkpointing=config.device.gradient_checkpointing or bool(known.get("gradient_checkpointing")),
    )  # fmt: skip


def _micro_batch(config: Config, folder: Path) -> int:
    """What an earlier session of this training settled on, perhaps after it ran out of memory, or as configured."""
    asked = config.training.batch_size
    for newest in sorted((folder / "checkpoints").glob("step-*/manifest.json"), reverse=True):
        try:
            facts = durable.read_json(newest)["facts"]
            return min(asked, facts["micro_batch"]) if facts["batch_size"] == asked else asked
        except (OSError, ValueError, KeyError, TypeError):
            continue  # whether a checkpoint can be used is the trainer's to judge
    return asked


def seconds_to_train(run: Run, config: Config, folder: Path) -> float:
    """Training time, over all restarts, at which this model must end: as planned, sooner when time was lost."""
    plan = run.facts("configuration.plan")
    names = [rung["name"] for rung in plan["ladder"]]
    larger = sum(rung["seconds"] + CHILD_SECONDS for rung in plan["ladder"][names.index(config.name) + 1 :])
    later = sum(phase["planned_seconds"] for phase in plan["phases"] if phase["number"] > 5)
    left = run.clock.left - later - larger - CHILD_SECONDS  # its own process has yet to start
    return max(10.0, min(config.training.max_seconds, _trained_seconds(folder) + left))


def _trained_seconds(folder: Path) -> float:
    """Training time that the newest checkpoint has, by the latest heartbeat's pace; 0 before the first."""
    try:
        heartbeat = durable.read_json(folder / "heartbeat")
        seconds, step = float(heartbeat["seconds"]), int(heartbeat["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
    return seconds * min(1.0, saved_step(folder) / step) if step else 0.0


def set_aside_all_but(trusted: frozenset, folder: Path) -> None:
    """Rename every checkpoint of a model that is none of supervisor.checkpoints_in() `trusted` to *.bad: the device's
    numbers were wrong when it was written, whatever its digests say."""
    for found in supervisor.checkpoints_in(folder) - trusted:
        checkpoint = found[0]
        if not checkpoint.name.endswith(".bad"):
            aside = checkpoint.with_name(f"{checkpoint.name}.bad")
            disk.remove(aside)
            checkpoint.rename(aside)


def append_event(folder: Path, event: dict) -> None:
    """A row of events.jsonl, between two trainers, which write it otherwise. None before the first made `folder`."""
    if not folder.is_dir():
        return
    durable.unblock(folder / "events.jsonl")
    with open(folder / "events.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(event, ensure_ascii=False) + "\n")


def _as_event(remedy: Remedy, ending: Ending, progress: Progress) -> dict:
    told = f"{ending.symptom}: {ending.evidence} -> {remedy.name}"
    return {"event": "remedy", "step": progress.step, "time": time.time(), "message": told}
