"""The training loop: from a configuration and a data folder to a model folder, through any interruption.

The state is always that before the evaluation of its step. It is saved first and evaluated then, so whatever is
interrupted is repeated from there with the same outcome, to the byte on a CPU.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from nanogpt import device as devices
from nanogpt import durable
from nanogpt.config import Config
from nanogpt.training.gradients import OutOfMemory
from nanogpt.training.record.model_folder import ModelFolder
from nanogpt.training.session import Session
from nanogpt.training.stopping import StopRequest, StopRequested
from nanogpt.training.update.schedule import cool_down_for_clock, factor_at, planned_cool_down


@dataclass(frozen=True)
class Outcome:
    """How a training ended: status "finished" (for `reason`) or "stopped"; sha256 is of the final weights' file.

    tokens: all that were seen, those of skipped steps and of steps that a rewind took back as well; what is repeated
    after an interruption counts once.
    """

    status: str
    reason: str
    step: int
    seconds: float
    tokens: int
    best_val_loss: float | None
    best_step: int
    best_is_average: bool  # best/ has the moving average of the weights instead of the weights of its step
    skipped: int  # bad steps that were not taken
    rewinds: int  # since what computes was last changed
    final_val_loss: float | None
    sha256: str | None
    parameters: int
    tokens_per_second: float
    peak_memory_bytes: int
    device: str
    precision: str
    micro_batch: int  # windows in one forward and backward pass, at last
    context: int  # tokens in the longest window


def train(
    config: Config,
    data_folder: Path,
    model_folder: Path,
    *,
    max_seconds: float | None = None,
    micro_batch: int | None = None,
    stop: StopRequest | None = None,
) -> Outcome:
    """Train until max_iters, the clock or early stopping; goes on where an earlier call in `model_folder` was.

    max_seconds counts training over all sessions and replaces training.max_seconds. micro_batch splits the effective
    batch otherwise and changes nothing else; it halves where memory runs out. Raises UserError (other settings or data
    than before, among others), CorruptFileError (data), NonFiniteError after the last rewind, OSError (disk),
    OutOfMemory (after saving) when a single window is too much, and what a device raises when it is out of memory
    beside the passes.
    """
    trainer = Trainer(config, Path(data_folder), Path(model_folder), max_seconds, micro_batch, stop or StopRequest())
    return trainer.run()


class Trainer(Session):
    """The loop over steps, and what is due between them."""

    def run(self) -> Outcome:
        self.folder = ModelFolder(self.model_folder, self.config)
        try:
            self.open()
            return self.loop()
        except StopRequested:
            self.save()
            self.folder.event("stopped", "asked to stop; saved")
            return self.outcome("stopped", "asked to stop")
        finally:
            self.folder.close()

    def loop(self) -> Outcome:
        while True:
            self.plan_cool_down()
            reason = self.reason_to_end()
            self.stop.check()
            if reason or self.is_due("checkpoint_interval") or self.is_due("eval_interval") or self.is_long_unsaved():
                self.save()
            if not reason:
                self.hold_room()
            if reason or (self.progress.step and self.is_due("eval_interval")):
                self.evaluate()
                reason = reason or self.out_of_patience()
            if self.sample_is_due(reason):
                self.write_sample()
            if reason:
                return self.finish(reason)
            self.step()

    # ---- one step

    def step(self) -> None:
        """Gradients, judgement, update. A step that is skipped consumes its data like any other."""
        progress, config = self.progress, self.config.training
        batch, loss_scale = self.batch, self.loss_scale
        loss, gradient_norm = self.compute_gradients()
        verdict = self.verdict(loss, gradient_norm)
        factor = factor_at(progress.step, config, progress.cool_down) * progress.learning_rate_scale
        if not verdict:
            self.update(gradient_norm, loss_scale, factor)
        progress.step += 1
        progress.cursor += batch
        self.clock.sequences += batch
        self.folder.step = progress.step
        if verdict:
            self.folder.event("skipped", f"{verdict}: loss {loss:.4g}, gradient norm {gradient_norm:.4g}")
        elif progress.growth and not progress.cool_down and progress.growth.note(loss):
            self.folder.event("batch", f"the loss no longer falls: {batch} -> {self.batch} sequences a step")
        if progress.stability.suspicion:
            self.rewind()
        elif self.is_due("log_interval") or progress.step == 1:
            self.log_step(loss, gradient_norm, config.learning_rate * factor)
        self.folder.beat("training")

    def compute_gradients(self) -> tuple[float, float]:
        """Loss and gradient norm of this step's samples, gradients in place."""
        try:
            self.check_device()
            return self.gradients.compute(self.step_data, self.loss_scale)
        except OutOfMemory:  # all is as before the step: no other process has to do again what led here
            self.save()
            raise

    def verdict(self, loss: float, gradient_norm: float) -> str:
        """ "" to take the step, or why it is skipped. An overflow of float16's range is no sign of bad weights."""
        in_float16 = self.computing.precision == "float16"
        if in_float16 and math.isfinite(loss) and self.progress.loss_scale.overflows(gradient_norm):
            return f"overflow, loss scale now {self.loss_scale:g}"
        return self.progress.stability.judge(loss, gradient_norm)

    def update(self, gradient_norm: float, loss_scale: float, factor: float) -> None:
        """Clip the gradients, take the step, and take the weights into their average."""
        clip = self.config.training.grad_clip
        clipping = min(1.0, clip / gradient_norm) if clip and gradient_norm else 1.0
        if clipping / loss_scale != 1.0:
            self.optimizer.scale_gradients(clipping / loss_scale)
        self.optimizer.step(factor)
        if self.average:
            self.average.update()

    # ---- when

    def is_due(self, interval: str) -> bool:
        return self.progress.step % getattr(self.config.training, interval) == 0

    def is_long_unsaved(self) -> bool:
        return self.clock.minutes_since_saved() >= self.config.training.checkpoint_minutes

    def sample_is_due(self, reason_to_end: str | None) -> bool:
        wanted = self.config.training.sample_interval
        return bool(wanted and self.progress.step) and (reason_to_end is not None or self.is_due("sample_interval"))

    def reason_to_end(self) -> str | None:
        progress, config = self.progress, self.config.training
        if progress.step >= config.max_iters:
            return "max_iters"
        cooled_down = progress.cool_down is not None and progress.step >= progress.cool_down.end
        if self.max_seconds and progress.step and (cooled_down or self.seconds_left() <= 0):
            return "out of time"
        return None

    def out_of_patience(self) -> str | None:
        patience = self.config.training.early_stopping_patience
        return "early stopping" if patience and self.progress.evaluations_without_gain >= patience else None

    def plan_cool_down(self) -> None:
        """WSD: begin the cool-down when the steps or the clock say so; the state before it is kept."""
        progress, config = self.progress, self.config.training
        if config.schedule != "wsd":
            return
        planned = progress.cool_down
        if self.max_seconds and self.clock.sequences:
            seconds_per_step = self.clock.pace() * self.batch
            planned = cool_down_for_clock(
                progress.step, self.seconds_left(), seconds_per_step, config, progress.cool_down
            )
        elif planned is None and progress.step >= planned_cool_down(config).start:
            planned = planned_cool_down(config)
        if planned and progress.cool_down is None:
            self.write_checkpoint(self.folder.before_cool_down)
            self.folder.event("cool-down", f"from step {planned.start} to {planned.end}")
            progress.max_seconds = self.max_seconds
        progress.cool_down = planned

    def seconds_left(self) -> float:
        forward_alone = len(self.val_split.tokens) / (3 * self.config.model.block_size)  # a third of training's work
        return self.clock.seconds_left(forward_alone)

    # ---- evaluate, sample, log, finish

    def evaluate(self) -> None:
        """Judge the weights by the validation split; keep them in best/ when they are the best."""
        progress, split = self.progress, self.val_split
        with self.clock.aside("evaluation"):
            self.val_loss = val_loss = self.judge.validation_loss(self.micro_batch)
            average_val_loss = self.average_validation_loss()
            best_here = min(filter(math.isfinite, (val_loss, average_val_loss)), default=math.inf)
            better = best_here < (math.inf if progress.best_val_loss is None else progress.best_val_loss)
            if better:
                progress.best_val_loss, progress.best_step = best_here, progress.step
            progress.evaluations_without_gain = 0 if better else progress.evaluations_without_gain + 1
            self.keep_if_best(best_here, averaged=best_here == average_val_loss)
        self.folder.row({
            "kind": "eval", "step": progress.step, "val_loss": val_loss,
            **({"average_val_loss": average_val_loss} if self.average else {}),
            "train_loss": progress.stability.recent_loss(),  # mean of the last 128 steps, dropout included
            "bits_per_byte": val_loss / math.log(2) * len(split.tokens) / split.bytes,
            "seconds": round(self.clock.seconds(), 3), "best": better,
        })  # fmt: skip
        self.folder.shown["val_loss"] = val_loss

    def average_validation_loss(self) -> float:
        """Of the moving average of the weights; NaN without one."""
        if self.average is None:
            return math.nan
        with self.average.in_the_model():
            return self.judge.validation_loss(self.micro_batch)

    def keep_if_best(self, val_loss: float, averaged: bool) -> None:
        facts = {**self.facts(), "averaged": averaged}
        with self.average.in_the_model() if averaged else nullcontext():
            self.folder.keep_if_best(self.model, val_loss, facts)

    def write_sample(self) -> None:
        """Add what the model writes now to samples.jsonl."""
        config = self.config.training
        with self.clock.aside("sample"):
            for temperature in config.sample_temperatures:
                text = self.judge.sample(temperature, config.seed)
                self.folder.sample({"step": self.progress.step, "temperature": temperature, "text": text})

    def log_step(self, loss: float, gradient_norm: float, learning_rate: float) -> None:
        step, block_size, sequences_per_second = self.progress.step, self.config.model.block_size, self.clock.lap()
        row = {
            "kind": "train", "step": step, "loss": loss, "learning_rate": learning_rate, "grad_norm": gradient_norm,
            "tokens": self.progress.cursor * block_size, "seconds": round(self.clock.seconds(), 3),
            "tokens_per_second": round(sequences_per_second * block_size, 1),
            "memory_bytes": devices.memory_in_use(self.device),
        }  # fmt: skip
        self.folder.row(row)
        remaining = (self.config.training.max_iters - step) * self.batch / sequences_per_second
        if self.max_seconds:
            remaining = min(remaining, max(0.0, self.seconds_left()))
        self.folder.shown |= {key: row[key] for key in ("loss", "tokens_per_second", "memory_bytes", "seconds")}
        self.folder.shown["eta_seconds"] = round(remaining, 1)

    def finish(self, reason: str) -> Outcome:
        """Write final/ and outcome.json."""
        facts = {**self.facts(), "val_loss": finite_or_none(self.val_loss)}
        self.folder.mend_rows()
        sha256 = self.folder.save_model("final", self.model, facts)
        self.folder.event("finished", reason)
        outcome = self.outcome("finished", reason, sha256)
        durable.write_json(self.folder.path / "outcome.json", asdict(outcome))
        self.folder.beat("finished")
        return outcome

    def outcome(self, status: str, reason: str, sha256: str | None = None) -> Outcome:
        progress, seconds = self.progress, self.clock.seconds()
        tokens = progress.cursor * self.config.model.block_size
        return Outcome(
            status=status, reason=reason, step=progress.step, seconds=round(seconds, 3), tokens=tokens,
            best_val_loss=finite_or_none(self.folder.best_val_loss), best_step=self.folder.best_step(),
            best_is_average=self.folder.best_is_average(), skipped=progress.stability.skipped,
            rewinds=progress.rewinds, final_val_loss=finite_or_none(self.val_loss), sha256=sha256,
            parameters=self.model.num_parameters(), tokens_per_second=round(tokens / seconds, 1),
            peak_memory_bytes=devices.peak_memory(self.device), device=self.device,
            precision=self.computing.precision, micro_batch=self.micro_batch, context=self.config.context,
        )  # fmt: skip


def finite_or_none(loss: float | None) -> float | None:
    """What JSON can hold of a loss."""
    return loss if loss is not None and math.isfinite(loss) else None
