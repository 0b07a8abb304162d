"""Phase 5: each model of the plan is trained in a supervised child process, with remedies for what goes wrong."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from flows import documents, supervisor
from flows.ledger import Outcome, Step
from flows.planner import CHILD_SECONDS
from flows.remedies import Attempt, Doctor
from flows.run import Run
from nanogpt import durable
from nanogpt.config import Config, load_config
from nanogpt.faults import UserError
from nanogpt.training.live import describe
from nanogpt.training.progress import check_same_training, trajectory

PLOT_SECONDS = 20.0  # between redrawings of the loss plot; one takes about 0.1 s of this process
CLOCK_SECONDS = 5.0  # between notes of the time spent: what a kill makes the budget forget


def training(run: Run) -> None:
    ladder = run.facts("configuration.plan")["ladder"]
    run.worker.close()  # its memory is the trainer's now
    for name in (rung["name"] for rung in ladder):
        facts, folder = run.do(step(name)), run.paths.checkpoints / name
        run.milestone(
            "training", f"{name}: validation loss {facts['best_val_loss']:.4f} after {facts['step']:,} steps",
            f"{facts['parameters']:,} parameters, {facts['tokens']:,} tokens, {facts['seconds']:.0f} s of training.",
            [run.paths.configs / f"{name}.yaml",
             *(folder / file for file in ("metrics.jsonl", "outcome.json", "loss.svg"))],
        )  # fmt: skip


def train_model(run: Run, name: str) -> Outcome:
    config = load_config(run.paths.configs / f"{name}.yaml")
    folder = run.paths.checkpoints / name
    if f"training.{name}" in run.options.redo:
        _set_aside(run, folder, "is trained again (--redo)")
    elif _is_other_training(run, config, folder):
        _set_aside(run, folder, "was trained with other settings before")
    ending = _train_with_remedies(run, config, folder)
    facts = {
        **ending.outcome, "folder": run.relative(folder), "predicted_seconds": _planned(run, name)["seconds"],
        "expected_bits_per_byte": _planned(run, name)["expected_bits_per_byte"],
        "remedies": [row for row in run.remedies if row["step"] == f"training.{name}"],
    }  # fmt: skip
    _draw_loss(folder)
    documents.render_model_card({"name": name, "facts": facts, "config": config.model_dump()}, folder / "README.md")
    weights = sorted((folder / "best").iterdir()) + sorted((folder / "final").iterdir())
    to_use_them = [folder / "config.yaml", *sorted(folder.glob("tokenizer*.json"))]
    return Outcome([*weights, *to_use_them, folder / "metrics.jsonl"], facts, identity={"sha256": facts["sha256"],
                   "best": durable.sha256_file(folder / "best" / "model.safetensors")})  # fmt: skip


def _train_with_remedies(run: Run, config: Config, folder: Path) -> supervisor.Ending:
    """The ending of a training that finished. Raises RuntimeError when the remedies are used up, UserError."""
    doctor = Doctor()
    attempt = Attempt(_micro_batch(config, folder), config.device.type, bool(config.device.mixed_precision))
    while True:
        run.surroundings.wait_for_power(f"training.{config.name}")
        began = time.monotonic()
        progress = _Progress(run, config, folder)
        ending = supervisor.train(
            _arguments(run, config, folder, attempt), folder, run.paths.logs / f"{config.name}.log", progress,
            reason_to_pause=lambda: run.surroundings.reason_to_pause(f"training.{config.name}"),
        )  # fmt: skip
        if not ending.symptom:
            return ending
        if ending.symptom == "paused":
            continue
        if ending.symptom == "user_error":
            raise UserError(ending.evidence)
        if progress.saved_steps() > 0:
            doctor.recovered()
        prescription = doctor.prescribe(ending.symptom, attempt)
        if prescription is None:
            raise RuntimeError(f"{config.name}: {ending.symptom} ({ending.evidence}); no remedy is left")
        remedy, attempt = prescription
        run.remedy(
            step=f"training.{config.name}", symptom=ending.symptom, evidence=ending.evidence, remedy=remedy.name,
            outcome=f"micro-batch {attempt.micro_batch}, {attempt.device}",
            cost_seconds=round(time.monotonic() - began - progress.saved_seconds(), 1),
            steps_lost=progress.steps_lost(),
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


def _arguments(run: Run, config: Config, folder: Path, attempt: Attempt) -> list[str]:
    arguments = [
        str(run.paths.configs / f"{config.name}.yaml"), "--data", str(_data_folder(run, config)),
        "--folder", str(folder), "--micro-batch", str(attempt.micro_batch),
    ]  # fmt: skip
    if (attempt.device, attempt.mixed_precision) != (config.device.type, bool(config.device.mixed_precision)):
        arguments += ["--set", f"device.type={attempt.device}", "--set", "device.mixed_precision=false"]
    if config.training.max_seconds is not None:
        arguments += ["--max-seconds", f"{_seconds_to_train(run, config, folder):.1f}"]
    return arguments


def _seconds_to_train(run: Run, config: Config, folder: Path) -> float:
    """Training time, over all restarts, at which this model must end: as planned, sooner when time was lost."""
    plan = run.facts("configuration.plan")
    names = [rung["name"] for rung in plan["ladder"]]
    larger = sum(rung["seconds"] + CHILD_SECONDS for rung in plan["ladder"][names.index(config.name) + 1 :])
    later = sum(phase["planned_seconds"] for phase in plan["phases"] if phase["number"] > 5)
    left = run.clock.left - later - larger - CHILD_SECONDS  # its own process has yet to start
    return max(10.0, min(config.training.max_seconds, _trained_seconds(folder) + left))


def _trained_seconds(folder: Path) -> float:
    """Training time already in this model's latest heartbeat; 0 before the first."""
    try:
        return float(durable.read_json(folder / "heartbeat").get("seconds", 0.0))
    except (OSError, ValueError):
        return 0.0


class _Progress:
    """Passes heartbeats on to the terminal, the task's page and the loss plot, each at its own pace."""

    def __init__(self, run: Run, config: Config, folder: Path):
        self.run, self.config, self.folder = run, config, folder
        self.heartbeat: dict = {}
        self.began, self.first_step = time.monotonic(), self._saved_step()
        self.drawn = self.noted = self.began

    def __call__(self, heartbeat: dict) -> None:
        self.heartbeat = heartbeat
        now = time.monotonic()
        fraction = heartbeat.get("step", 0) / max(1, heartbeat.get("max_iters", 1))
        line = f"{self.config.name}  {describe(heartbeat)}"
        self.run.display.progress(f"training-{self.config.name}", fraction, line)
        self.run.ledger.pulse()
        if now - self.noted >= CLOCK_SECONDS:
            self.noted = now
            self.run.clock.save()
        if now - self.drawn >= PLOT_SECONDS:
            self.drawn = now
            self._redraw()

    def _redraw(self) -> None:
        try:
            _draw_loss(self.folder)
        except Exception as error:  # a plot is never worth a training
            self.run.log.write(f"no loss plot of {self.config.name}: {type(error).__name__}: {error}", "warning")

    def steps_lost(self) -> int:
        """Steps done since the newest checkpoint."""
        return max(0, self.heartbeat.get("step", 0) - self._saved_step())

    def saved_steps(self) -> int:
        """Steps of this attempt that are kept in a checkpoint."""
        return max(0, self._saved_step() - self.first_step)

    def saved_seconds(self) -> float:
        """The time that those steps took."""
        done = self.heartbeat.get("step", 0) - self.first_step
        return (time.monotonic() - self.began) * min(1.0, self.saved_steps() / done) if done > 0 else 0.0

    def _saved_step(self) -> int:
        checkpoints = (self.folder / "checkpoints").glob("step-*")
        return max((int(path.name[5:]) for path in checkpoints if path.name[5:].isdigit()), default=0)


def _is_other_training(run: Run, config: Config, folder: Path) -> bool:
    """Whether `folder` holds a training with other settings or data.

    More steps, or more time, are the same training: it goes on from before the cool-down.
    """
    try:
        before = load_config(folder / "config.yaml")
        data = durable.read_json(folder / "data.json")["manifest_sha256"]
    except (UserError, OSError, ValueError, KeyError):
        return False
    same_vocabulary = config.with_changes({"model.vocab_size": before.model.vocab_size})
    now = durable.sha256_file(_data_folder(run, config) / "manifest.json")
    try:
        check_same_training(trajectory(before, data), trajectory(same_vocabulary, now), config.training.schedule, "")
    except UserError:
        return True
    return False


def _set_aside(run: Run, folder: Path, why: str) -> None:
    """Move a model's folder away whole; one predecessor is kept."""
    if not folder.exists():
        return
    previous = folder.with_name(f"{folder.name}.previous")
    if previous.exists():
        shutil.rmtree(previous)
    folder.rename(previous)
    run.tell(f"{folder.name} {why}; what there was is now in {run.relative(previous)}")


def _draw_loss(folder: Path) -> None:
    from nanogpt import plots  # matplotlib: 0.5 s, only where something is drawn

    plots.loss_plot(folder, folder / "loss.svg")


def _planned(run: Run, name: str) -> dict:
    return next(rung for rung in run.facts("configuration.plan")["ladder"] if rung["name"] == name)


def _data_folder(run: Run, config: Config) -> Path:
    return run.paths.data / config.data.tokenizer


def _settings(run: Run, name: str) -> dict:
    """What decides the weights; the device, the clock and how often something is written do not."""
    config = load_config(run.paths.configs / f"{name}.yaml")
    return {**trajectory(config, ""), "tokenizer": config.data.tokenizer}


def step(name: str) -> Step:
    return Step(
        f"training.{name}", f"Train {name}", lambda run: train_model(run, name), lambda run: _settings(run, name),
        needs=("dataset.characters", "dataset.bpe", "implementation.checks"),
        code=("nanogpt/model/", "nanogpt/training/", "nanogpt/data/data_loader.py"), costly=True,
    )  # fmt: skip


def steps(models: Sequence[str]) -> list[Step]:
    return [step(name) for name in models]
