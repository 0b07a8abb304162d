"""The training loop: from a configuration and a data folder to a model folder, through any interruption.

The state is always that before the evaluation of its step. It is saved first and evaluated then, so whatever is
interrupted is repeated from there with the same outcome, to the byte on a CPU.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from nanogpt import device as devices
from nanogpt import durable
from nanogpt.config import Config
from nanogpt.faults import NonFiniteError
from nanogpt.training import checkpoint
from nanogpt.training.clock import Clock
from nanogpt.training.lifeline import StopRequest, StopRequested
from nanogpt.training.model_folder import ModelFolder
from nanogpt.training.schedule import cool_down_for_clock, factor_at, planned_cool_down
from nanogpt.training.session import Session
from nanogpt.training.stability import LEARNING_RATE_AFTER_REWIND, MAX_REWINDS

SAMPLE_TEMPERATURE = 0.8


@dataclass(frozen=True)
class Outcome:
    """How a training ended: status "finished" (for `reason`) or "stopped"; sha256 is of the final weights' file."""

    status: str
    reason: str
    step: int
    seconds: float
    tokens: int
    best_val_loss: float | None
    best_step: int
    final_val_loss: float | None
    sha256: str | None
    parameters: int
    tokens_per_second: float
    peak_memory_bytes: int
    device: str
    precision: str


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
    batch otherwise and changes nothing else. Raises UserError (other settings or data than before, among others),
    CorruptFileError (data), NonFiniteError after the last rewind, OSError (disk), and what a device raises when it is
    out of memory.
    """
    trainer = Trainer(config, Path(data_folder), Path(model_folder), max_seconds, micro_batch, stop or StopRequest())
    return trainer.run()


class Trainer(Session):
    """The loop over steps, and what is due between them."""

    def run(self) -> Outcome:
        self.folder = ModelFolder(self.model_folder, self.config.training.max_iters)
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
            if reason or self.is_due("checkpoint_interval") or self.is_due("eval_interval"):
                self.save()
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
        loss, gradient_norm = self.compute_gradients()
        verdict = progress.stability.judge(loss, gradient_norm)
        factor = factor_at(progress.step, config, progress.cool_down) * progress.learning_rate_scale
        if not verdict:
            if config.grad_clip and gradient_norm > config.grad_clip:
                self.optimizer.scale_gradients(config.grad_clip / gradient_norm)
            self.optimizer.step(factor)
        progress.step += 1
        progress.cursor += self.batch
        self.clock.steps += 1
        self.folder.step = progress.step
        if verdict:
            self.folder.event("skipped", f"{verdict}: loss {loss:.4g}, gradient norm {gradient_norm:.4g}")
        if progress.stability.must_rewind:
            self.rewind()
        elif self.is_due("log_interval") or progress.step == 1:
            self.log_step(loss, gradient_norm, config.learning_rate * factor)
        self.folder.beat("training")

    def compute_gradients(self) -> tuple[float, float]:
        """Loss and gradient norm of this step's samples, gradients in place."""
        return self.gradients.compute(self.progress.cursor, self.batch)

    def rewind(self) -> None:
        """Back to a healthy checkpoint, with half the learning rate and other data ahead.

        Only to a checkpoint of the regular interval, which every run has, interrupted or not, and from before the bad
        steps began. Raises NonFiniteError.
        """
        bad_steps = self.progress.stability.bad_in_a_row
        told = f"{bad_steps} bad steps in a row at step {self.progress.step}"
        if self.progress.rewinds >= MAX_REWINDS:
            raise NonFiniteError(f"{told}, after {MAX_REWINDS} rewinds")
        found = self.folder.newest(self.config.training.checkpoint_interval, self.progress.step - bad_steps)
        if found is None:
            raise NonFiniteError(f"{told}, and no checkpoint to go back to")
        bad, seconds = self.progress, self.clock.seconds()
        self.restore(found)
        self.progress.rewinds = bad.rewinds + 1
        self.progress.learning_rate_scale = bad.learning_rate_scale * LEARNING_RATE_AFTER_REWIND
        self.progress.cursor = bad.cursor
        self.clock = Clock(seconds, self.max_seconds)
        checkpoint.remove_after(self.folder.checkpoints, found.step)  # an interruption's, of what is left behind
        self.saved_step = -1
        rate = self.progress.learning_rate_scale
        self.folder.event("rewound", f"{told}; back to {found.step} at {rate:g} x learning rate")

    # ---- when

    def is_due(self, interval: str) -> bool:
        return self.progress.step % getattr(self.config.training, interval) == 0

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
        if self.max_seconds and self.clock.steps:
            planned = cool_down_for_clock(
                progress.step, self.seconds_left(), self.clock.pace(), config, progress.cool_down
            )
        elif planned is None and progress.step >= planned_cool_down(config).start:
            planned = planned_cool_down(config)
        if planned and progress.cool_down is None:
            self.write_checkpoint(self.folder.before_cool_down)
            self.folder.event("cool-down", f"from step {planned.start} to {planned.end}")
            progress.max_seconds = self.max_seconds
        progress.cool_down = planned

    def seconds_left(self) -> float:
        forward_alone = len(self.val_split.tokens) / (3 * self.tokens_per_step)  # a third of a step's work
        return self.clock.seconds_left(forward_alone)

    # ---- evaluate, sample, log, finish

    def evaluate(self) -> None:
        """Judge the weights by the validation split; keep them in best/ when they are the best."""
        progress, split = self.progress, self.val_split
        with self.clock.aside("evaluation"):
            self.val_loss = val_loss = self.judge.validation_loss()
            better = val_loss < (math.inf if progress.best_val_loss is None else progress.best_val_loss)
            if better:
                progress.best_val_loss, progress.best_step = val_loss, progress.step
            progress.evaluations_without_gain = 0 if better else progress.evaluations_without_gain + 1
            self.folder.keep_if_best(self.model, val_loss, self.facts())
        self.folder.metrics.append({
            "kind": "eval", "step": progress.step, "val_loss": val_loss,
            "train_loss": progress.stability.recent_loss(),  # mean of the last 128 steps, dropout included
            "bits_per_byte": val_loss / math.log(2) * len(split.tokens) / split.bytes,
            "seconds": round(self.clock.seconds(), 3), "best": better,
        })  # fmt: skip
        self.folder.shown["val_loss"] = val_loss

    def write_sample(self) -> None:
        """Add what the model writes now to samples.jsonl."""
        with self.clock.aside("sample"):
            text = self.judge.sample(SAMPLE_TEMPERATURE, self.config.training.seed)
        self.folder.samples.append({"step": self.progress.step, "temperature": SAMPLE_TEMPERATURE, "text": text})

    def log_step(self, loss: float, gradient_norm: float, learning_rate: float) -> None:
        step, steps_per_second = self.progress.step, self.clock.lap()
        row = {
            "kind": "train", "step": step, "loss": loss, "learning_rate": learning_rate, "grad_norm": gradient_norm,
            "tokens": step * self.tokens_per_step, "seconds": round(self.clock.seconds(), 3),
            "tokens_per_second": round(steps_per_second * self.tokens_per_step, 1),
            "memory_bytes": devices.memory_in_use(self.device),
        }  # fmt: skip
        self.folder.metrics.append(row)
        remaining = (self.config.training.max_iters - step) / steps_per_second
        if self.max_seconds:
            remaining = min(remaining, max(0.0, self.seconds_left()))
        self.folder.shown |= {key: row[key] for key in ("loss", "tokens_per_second", "memory_bytes", "seconds")}
        self.folder.shown["eta_seconds"] = round(remaining, 1)

    def finish(self, reason: str) -> Outcome:
        """Write final/ and outcome.json."""
        facts = {**self.facts(), "val_loss": self.val_loss if math.isfinite(self.val_loss) else None}
        sha256 = checkpoint.save(self.folder.path / "final", self.model, step=self.progress.step, facts=facts)
        self.folder.event("finished", reason)
        outcome = self.outcome("finished", reason, sha256)
        durable.write_json(self.folder.path / "outcome.json", asdict(outcome))
        self.folder.beat("finished")
        return outcome

    def outcome(self, status: str, reason: str, sha256: str | None = None) -> Outcome:
        finite = [loss if loss is not None and math.isfinite(loss) else None
                  for loss in (self.folder.best_val_loss, self.val_loss)]  # fmt: skip
        tokens, seconds = self.progress.step * self.tokens_per_step, self.clock.seconds()
        return Outcome(
            status, reason, self.progress.step, round(seconds, 3), tokens, finite[0], self.folder.best_step(),
            finite[1], sha256, self.model.num_parameters(), round(tokens / seconds, 1),
            devices.peak_memory(self.device), self.device, self.computing.precision,
        )  # fmt: skip
