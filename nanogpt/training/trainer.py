"""The training loop: from a configuration and a data folder to a model folder, through any interruption.

The state is always that before the evaluation of its step. It is saved first and evaluated then, so whatever is
interrupted is repeated from there with the same outcome, to the byte on a CPU.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanogpt import device as devices
from nanogpt import durable
from nanogpt.config import Config, TrainingConfig
from nanogpt.data.chapters import pause
from nanogpt.results.training import TrainingOutcome
from nanogpt.training import numerics as numerical
from nanogpt.training.cool_down import CoolDownPlanner
from nanogpt.training.job import TrainingJob
from nanogpt.training.micro_batches import MicroBatches
from nanogpt.training.record.model_folder import ModelFolder
from nanogpt.training.resuming import Resumer, find_checkpoint, settled_micro_batch
from nanogpt.training.retries import OutOfMemory
from nanogpt.training.samples import document_start, samples_of
from nanogpt.training.saving import Saver
from nanogpt.training.state import TrainingState
from nanogpt.training.step import Stepper, StepResult
from nanogpt.training.stopping import OutOfTime, StopRequest, StopRequested
from nanogpt.training.stopwatch import TrainingClock
from nanogpt.training.validation import Validator


def train(
    config: Config,
    data_folder: Path,
    model_folder: Path,
    *,
    max_seconds: float | None = None,
    micro_batch: int | None = None,
    stop: StopRequest | None = None,
) -> TrainingOutcome:
    """Train until max_iters, the clock or early stopping; continues where an earlier call in `model_folder` was.

    max_seconds counts training over all sessions and replaces training.max_seconds. micro_batch splits the effective
    batch otherwise and changes nothing else; it halves where memory runs out. Raises UserError (other settings or data
    than before, among others), CorruptFileError (data), NonFiniteError after the last rewind, OSError (disk),
    OutOfMemory (after saving) when a single window is too much, and what a device raises when it is out of memory
    outside the passes.
    """
    job = TrainingJob.checked(config, Path(data_folder), Path(model_folder), max_seconds, micro_batch)
    return run(job, stop or StopRequest())


def run(job: TrainingJob, stop: StopRequest) -> TrainingOutcome:
    """Do the job. Raises what train() raises, but for what was mistaken in the settings."""
    folder = ModelFolder(job.folder, job.config)
    try:
        return build(job, folder, stop).run()
    finally:
        folder.close()


def build(job: TrainingJob, folder: ModelFolder, stop: StopRequest) -> Trainer:
    """The whole trainer, at the checkpoint from which this session continues or before the first step.

    Raises UserError when the folder is another training's.
    """
    config, data = job.config, job.data
    found = find_checkpoint(job, folder)
    before = found.facts if found else {}
    numerics, warning = numerical.choose(config.device, before)
    state = TrainingState.at_start(config, numerics, folder, fresh=found is None)
    forward_alone = len(data.val.tokens) / (3 * config.model.block_size)  # a third of training's work
    clock = TrainingClock(job.max_seconds, forward_alone)

    def interrupt() -> None:
        stop.check()
        clock.check()

    def wait_for_data() -> None:
        interrupt()
        folder.beat("waiting for more of the data")
        pause()

    samples = samples_of(data, config, wait_for_data)
    state.model.document_start = document_start(data, config)
    size = settled_micro_batch(job, before)
    micro_batches = MicroBatches(samples, numerics.device, size, config.context, stop)
    stepper = Stepper(config, numerics, state, micro_batches, interrupt, folder)
    validator = Validator(state.model, data.tokenizer, data.val, numerics, config.context, stop, folder.beat)
    saver = Saver(job, numerics, state, micro_batches, folder, clock)
    resumer = Resumer(job, numerics, state, folder, saver, clock)
    cool_down = CoolDownPlanner(job, state, saver, folder, clock)
    if warning:
        folder.event("device", warning)
    dropped = {"dropped": numerical.DROPPED} if config.model.dropout else {}
    if changes := numerics.differences(before, micro_batch=size, **dropped):
        listed = ", ".join(f"{name} {change}" for name, change in changes.items())
        folder.event("computes otherwise", f"not to the byte as before: {listed}")
    resumer.begin(found)
    clock.start(state.progress.seconds)
    extends = found is not None and found.folder == folder.before_cool_down
    return Trainer(job, numerics, state, stepper, validator, cool_down, saver, resumer, folder, clock, stop, extends)


@dataclass
class Trainer:
    """The loop over steps, and what is due between them. Each part is given what it needs by build()."""

    job: TrainingJob
    numerics: numerical.Numerics
    state: TrainingState
    stepper: Stepper
    validator: Validator
    cool_down: CoolDownPlanner
    saver: Saver
    resumer: Resumer
    folder: ModelFolder
    clock: TrainingClock
    stop: StopRequest
    extends: bool  # continues from before the cool-down, which comes later
    val_loss: float | None = None  # of the latest evaluation in this session
    ran_out_of_time: bool = False  # in the middle of a step

    def run(self) -> TrainingOutcome:
        """Until the training ends or somebody asks it to stop."""
        try:
            self.begin()
            return self.loop()
        except StopRequested:
            self.saver.save()
            self.folder.event("stopped", "asked to stop; saved")
            return self.outcome("stopped", "asked to stop")

    def begin(self) -> None:
        """What costs no training time: the device is compared before anything is written."""
        try:
            self.stepper.check_device()
        except OutOfTime:  # it waited for data
            self.ran_out_of_time = True
        if self.extends:
            self.resumer.take_cool_down_back()
        self.clock.start(self.state.progress.seconds)

    def loop(self) -> TrainingOutcome:
        self.expect_steps()
        while True:
            self.cool_down.plan()
            reason = self.reason_to_end()
            self.stop.check()
            if reason or self.save_is_due():
                self.saver.save()
            if not reason:
                self.saver.hold_reserve()
            if reason or (self.state.progress.step and self.is_due(self.config.eval_interval)):
                self.evaluate()
                reason = reason or self.out_of_patience()
            if self.sample_is_due(reason):
                self.write_sample()
            if reason:
                return self.finish(reason)
            self.step()

    def step(self) -> None:
        """One step, and what follows from it: more data in the next, a row of metrics, the way back."""
        try:
            result = self.stepper.take()
        except OutOfTime:
            self.ran_out_of_time = True
            return
        except OutOfMemory:  # all is as before the step: no other process has to do again what led here
            self.saver.save()
            raise
        progress = self.state.progress
        self.folder.step = progress.step
        self.clock.stepped(result.sequences)
        if result.skipped:
            figures = f"loss {result.loss:.4g}, gradient norm {result.gradient_norm:.4g}"
            self.folder.event("skipped", f"{result.skipped}: {figures}")
        elif progress.growth and not progress.cool_down and progress.growth.note(result.loss):
            sizes = f"{result.sequences} -> {progress.growth.size}"
            self.folder.event("batch", f"the loss no longer falls: {sizes} sequences a step")
        if progress.stability.suspicion:
            self.resumer.rewind()
        elif self.is_due(self.config.log_interval) or progress.step == 1:
            self.log_step(result)
        self.expect_steps()
        self.folder.beat("training")

    @property
    def config(self) -> TrainingConfig:
        return self.job.config.training

    # ---- when

    def is_due(self, interval: int) -> bool:
        return self.state.progress.step % interval == 0

    def save_is_due(self) -> bool:
        is_long_ago = self.clock.minutes_since_saved() >= self.config.checkpoint_minutes
        return self.is_due(self.config.checkpoint_interval) or self.is_due(self.config.eval_interval) or is_long_ago

    def sample_is_due(self, reason_to_end: str | None) -> bool:
        wanted, step = self.config.sample_interval, self.state.progress.step
        return bool(wanted and step) and (reason_to_end is not None or self.is_due(wanted))

    def reason_to_end(self) -> str | None:
        if self.state.progress.step >= self.config.max_iters:
            return "max_iters"
        is_over = self.cool_down.is_over or self.clock.seconds_left() <= 0
        if self.ran_out_of_time or (self.job.max_seconds and self.state.progress.step and is_over):
            return "out of time"
        return None

    def out_of_patience(self) -> str | None:
        patience = self.config.early_stopping_patience
        return "early stopping" if patience and self.state.progress.evaluations_without_gain >= patience else None

    # ---- evaluate, sample, log, finish

    def evaluate(self) -> None:
        """Judge the weights, and their average, by the validation split; keep the better ones in best/ when they are
        the best so far."""
        progress, split = self.state.progress, self.job.data.val
        with self.clock.aside("evaluation"):
            self.val_loss = val_loss = self.validator.validation_loss(self.stepper.micro_batches.size)
            average_val_loss = self.average_validation_loss()
            attention_entropy = self.validator.attention_entropy(self.stepper.micro_batches.size)
            best_here = min(filter(math.isfinite, (val_loss, average_val_loss)), default=math.inf)
            better = best_here < (math.inf if progress.best_val_loss is None else progress.best_val_loss)
            if better:
                progress.best_val_loss, progress.best_step = best_here, progress.step
            progress.evaluations_without_gain = 0 if better else progress.evaluations_without_gain + 1
            self.keep_if_best(best_here, averaged=best_here == average_val_loss)
        row: dict[str, Any] = {"kind": "eval", "step": progress.step, "val_loss": val_loss}
        if self.state.average:
            row["average_val_loss"] = average_val_loss
        row |= {
            "train_loss": progress.stability.recent_loss(),  # mean of the last 128 steps, dropout included
            "bits_per_byte": val_loss / math.log(2) * len(split.tokens) / split.bytes,
            "seconds": round(self.clock.seconds(), 3),
            "best": better,
            "attention_entropy": [round(nats, 5) for nats in attention_entropy],  # by layer, of the weights of the step
        }
        self.folder.row(row)
        self.folder.shown["val_loss"] = val_loss

    def average_validation_loss(self) -> float:
        """Of the moving average of the weights; NaN without one."""
        if self.state.average is None:
            return math.nan
        with self.state.average.in_the_model():
            return self.validator.validation_loss(self.stepper.micro_batches.size)

    def keep_if_best(self, val_loss: float, averaged: bool) -> None:
        average = self.state.average if averaged else None
        facts = {**self.saver.facts(), "averaged": averaged}
        with average.in_the_model() if average else nullcontext():
            self.folder.keep_if_best(self.state.model, val_loss, facts)

    def write_sample(self) -> None:
        """Add what the model writes now to samples.jsonl."""
        with self.clock.aside("sample"):
            for temperature in self.config.sample_temperatures:
                text = self.validator.sample(temperature, self.config.seed)
                self.folder.sample({"step": self.state.progress.step, "temperature": temperature, "text": text})

    def log_step(self, result: StepResult) -> None:
        """A row of metrics, and the figures of the heartbeat."""
        progress, block_size = self.state.progress, self.job.config.model.block_size
        sequences_per_second = self.clock.lap()
        row: dict[str, Any] = {
            "kind": "train",
            "step": progress.step,
            "loss": result.loss,
            **({"loss_by_source": result.by_source} if result.by_source else {}),
            "learning_rate": result.learning_rate,
            "grad_norm": result.gradient_norm,
            "tokens": progress.cursor * block_size,
            "seconds": round(self.clock.seconds(), 3),
            "tokens_per_second": round(sequences_per_second * block_size, 1),
            "memory_bytes": devices.memory_in_use(self.numerics.device),
        }
        self.folder.row(row)
        sequences = (self.config.max_iters - progress.step) * progress.batch(self.job.config)
        remaining = min(sequences / sequences_per_second, max(0.0, self.clock.seconds_left()))
        self.folder.shown |= {key: row[key] for key in ("loss", "tokens_per_second", "memory_bytes", "seconds")}
        self.folder.shown["eta_seconds"] = round(remaining, 1)

    def expect_steps(self) -> None:
        """Say how many steps there will be; the clock may allow fewer than the settings."""
        steps = self.cool_down.steps_in_sight()
        self.folder.expect(steps, is_estimate=0 < steps < self.config.max_iters)

    def finish(self, reason: str) -> TrainingOutcome:
        """Write final/ and outcome.json."""
        facts = {**self.saver.facts(), "val_loss": finite_or_none(self.val_loss)}
        self.folder.mend_rows()
        sha256 = self.folder.save_model("final", self.state.model, facts)
        self.folder.event("finished", reason)
        self.folder.expect(self.state.progress.step)
        outcome = self.outcome("finished", reason, sha256)
        durable.write_json(self.folder.path / "outcome.json", asdict(outcome))
        self.folder.beat("finished")
        return outcome

    def outcome(self, status: str, reason: str, sha256: str | None = None) -> TrainingOutcome:
        progress, seconds = self.state.progress, self.clock.seconds()
        tokens = progress.cursor * self.job.config.model.block_size
        return TrainingOutcome(
            status=status,
            reason=reason,
            step=progress.step,
            seconds=round(seconds, 3),
            tokens=tokens,
            best_val_loss=finite_or_none(self.folder.best_val_loss),
            best_step=self.folder.best_step(),
            best_is_average=self.folder.best_is_average(),
            skipped=progress.stability.skipped,
            rewinds=progress.rewinds,
            final_val_loss=finite_or_none(self.val_loss),
            sha256=sha256,
            parameters=self.state.model.num_parameters(),
            tokens_per_second=round(tokens / seconds, 1),
            peak_memory_bytes=devices.peak_memory(self.numerics.device),
            device=self.numerics.device,
            precision=self.numerics.precision,
            micro_batch=self.stepper.micro_batches.size,
            context=self.job.config.context,
        )


def finite_or_none(loss: float | None) -> float | None:
    """What JSON can hold of a loss."""
    return loss if loss is not None and math.isfinite(loss) else None
