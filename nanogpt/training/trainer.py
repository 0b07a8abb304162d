"""The training loop: from a configuration and a data folder to a model folder, through any interruption.

The state is always that before the evaluation of its step. It is saved first and evaluated then, so whatever is
interrupted is repeated from there with the same outcome, to the byte on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from nanogpt import device as devices
from nanogpt import durable
from nanogpt.config import Config
from nanogpt.data.data_loader import IGNORED, Samples, windows
from nanogpt.data.shards import open_split, verify
from nanogpt.data.tokenizer import load_tokenizer
from nanogpt.faults import NonFiniteError, UserError
from nanogpt.inference.engine import Engine
from nanogpt.model.gpt import GPT
from nanogpt.training import checkpoint
from nanogpt.training.checkpoint import Checkpoint
from nanogpt.training.clock import Clock
from nanogpt.training.lifeline import StopRequest, StopRequested
from nanogpt.training.model_folder import ModelFolder
from nanogpt.training.optimizer import Optimizer
from nanogpt.training.progress import Progress, check_same_training, trajectory
from nanogpt.training.schedule import cool_down_for_clock, factor_at, planned_cool_down
from nanogpt.training.stability import LEARNING_RATE_AFTER_REWIND, MAX_REWINDS

TOKENS_AT_ONCE = 8192  # in an evaluation's forward pass
SAMPLE_TOKENS, SAMPLE_TEMPERATURE = 200, 0.8
LARGER_CLOCK = 1.1  # a clock that grew by more is a larger budget: the cool-down is taken back and comes later


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


class Trainer:
    """One session of a training."""

    def __init__(
        self, config: Config, data_folder: Path, model_folder: Path, max_seconds: float | None,
        micro_batch: int | None, stop: StopRequest,
    ):  # fmt: skip
        verify(data_folder)
        self.train_split, self.val_split = (open_split(data_folder, name) for name in ("train", "val"))
        self.config = config = with_vocabulary(config, self.train_split.vocab_size)
        self.samples = Samples(self.train_split.tokens, config.model.block_size, config.training.seed)
        self.data_sha256 = durable.sha256_file(data_folder / "manifest.json")
        self.tokenizer = load_tokenizer(data_folder)
        self.identity = trajectory(config, self.data_sha256)
        self.max_seconds = max_seconds or config.training.max_seconds
        self.batch = config.training.batch_size * config.training.gradient_accumulation  # sequences a step
        self.micro_batch = min(micro_batch or config.training.batch_size, self.batch)
        self.tokens_per_step = self.batch * config.model.block_size
        self.model_folder, self.stop = model_folder, stop
        self.progress = Progress()
        self.val_loss: float | None = None
        self.saved_step = -1

    def run(self) -> Outcome:
        self.folder = ModelFolder(self.model_folder, self.config.training.max_iters)
        try:
            found = self.newest_checkpoint()
            self.set_up(found)
            self.begin(found)
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
        """Loss (nats a token) and gradient norm of the whole effective batch, gradients in place.

        One transfer of two numbers per step: the judgement needs them before the weights change. On an accelerator
        it costs the launch of the update, far less than the backward pass that it waits for.
        """
        self.optimizer.forget_gradients()
        before = checkpoint.random_state(self.device) if self.micro_batch < self.batch else None
        total = torch.zeros((), device=self.device)
        for first, (tokens, targets) in self.micro_batches():  # (micro_batch, block_size) each
            if first and self.stop.requested:  # the step is repeated after resuming, with the same dropout
                checkpoint.restore_random_state(before, self.device)
                raise StopRequested
            with devices.autocast(self.device, self.precision):
                summed, _ = self.loss_sum(tokens, targets)
            loss = summed / self.tokens_per_step
            loss.backward()
            total += loss.detach()
            self.folder.beat("training")
        loss, gradient_norm = torch.stack([total, self.optimizer.gradient_norm()]).tolist()
        return loss, gradient_norm

    def micro_batches(self) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        """The step's samples in pieces that fit into memory: (offset in the step, (tokens, targets))."""
        for first in range(0, self.batch, self.micro_batch):
            pair = self.samples.batch(self.progress.cursor + first, min(self.micro_batch, self.batch - first))
            if self.device == "cuda":  # pinned memory is copied while the device computes
                pair = tuple(part.pin_memory().to("cuda", non_blocking=True) for part in pair)
            elif self.device != "cpu":
                pair = tuple(part.to(self.device) for part in pair)
            yield first, pair

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

    # ---- save, evaluate, sample, log, finish

    def save(self) -> None:
        """A checkpoint of this step, unless it is there; then the oldest go."""
        if self.saved_step == self.progress.step:
            return
        self.write_checkpoint(checkpoint.step_folder(self.folder.checkpoints, self.progress.step))
        self.saved_step = self.progress.step
        config = self.config.training
        checkpoint.prune(self.folder.checkpoints, config.keep_checkpoints, config.checkpoint_interval)

    def write_checkpoint(self, folder: Path) -> None:
        with self.clock.aside("saving"):
            self.progress.seconds = self.clock.seconds()
            state = {
                "progress": self.progress.state_dict(), "optimizer": self.optimizer.state_dict(),
                "random": checkpoint.random_state(self.device),
            }  # fmt: skip
            self.folder.save(folder, self.model, self.facts(), state)

    def facts(self) -> dict:
        """What a checkpoint's manifest says about how it was made."""
        return {"trajectory": self.identity, "micro_batch": self.micro_batch, **self.computing}

    def evaluate(self) -> None:
        """Judge the weights by the validation split; keep them in best/ when they are the best."""
        progress, split = self.progress, self.val_split
        with self.clock.aside("evaluation"):
            self.val_loss = val_loss = self.validation_loss()
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

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean loss over the whole validation split in windows of block_size, nats a token."""
        block_size = self.config.model.block_size
        rows = max(1, min(TOKENS_AT_ONCE // block_size, 4 * self.micro_batch))
        total, count = 0.0, 0
        self.model.eval()
        with self.stop.interruptible(), devices.autocast(self.device, self.precision):
            for tokens, targets in windows(self.val_split.tokens, block_size, rows):
                summed, _ = self.model.loss_sum(tokens.to(self.device), targets.to(self.device))
                total += summed.item()
                count += int((targets != IGNORED).sum())
                self.folder.beat("evaluating")
        self.model.train()
        return total / count

    def write_sample(self) -> None:
        """What the model writes now, from a generator of its own: training does not notice."""
        engine = Engine(self.model, self.tokenizer, self.device)
        pieces = []
        with self.clock.aside("sample"), self.stop.interruptible():
            for piece in engine.generate("\n", SAMPLE_TOKENS, SAMPLE_TEMPERATURE, seed=self.config.training.seed):
                pieces.append(piece)
                self.folder.beat("writing a sample")
        self.model.train()
        row = {"step": self.progress.step, "temperature": SAMPLE_TEMPERATURE, "text": "".join(pieces)}
        self.folder.samples.append(row)

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
            devices.peak_memory(self.device), self.device, self.computing["precision"],
        )  # fmt: skip

    # ---- start and resume

    def newest_checkpoint(self) -> Checkpoint | None:
        """Where to go on. Raises UserError when the folder is another training's."""
        found = self.folder.newest()
        if found is None:
            return None
        schedule = self.config.training.schedule
        check_same_training(found.facts["trajectory"], self.identity, schedule, str(self.model_folder))
        if found.state["progress"]["cool_down"] and self.has_grown(found):
            return self.folder.load_before_cool_down() or found
        return found

    def has_grown(self, found: Checkpoint) -> bool:
        """Whether this session may take more steps, or more time, than the one that began to cool down."""
        if found.facts["trajectory"]["training.max_iters"] < self.config.training.max_iters:
            return True
        clock = found.state["progress"]["max_seconds"]
        return clock is not None and (self.max_seconds or math.inf) > LARGER_CLOCK * clock

    def set_up(self, found: Checkpoint | None) -> None:
        """Device, precision, threads, model and optimizer; a resumed run computes as it did before."""
        before = found.facts if found else {}
        wanted, chosen = self.config.device, devices.choose(self.config.device.type)
        self.device = chosen.device
        devices.configure(self.device, wanted.threads or before.get("threads") or devices.physical_cores())
        native, same_device = native_precision(self.device), before.get("device") == self.device
        if wanted.mixed_precision == "auto":
            self.precision = before["precision"] if same_device else native
        else:
            self.precision = devices.precision_of(self.device, wanted.mixed_precision)
        self.computing = {
            "device": self.device, "precision": self.precision,
            "newton_schulz": before["newton_schulz"] if same_device else native,
            "threads": torch.get_num_threads(), "torch": torch.__version__,
        }  # fmt: skip
        torch.manual_seed(self.config.training.seed)  # dropout's generator; the model has its own
        self.model = GPT(self.config.model, seed=self.config.training.seed).to(self.device).train()
        self.optimizer = Optimizer(self.model, self.config.training, getattr(torch, self.computing["newton_schulz"]))
        self.loss_sum = self.compiled() if wanted.compile else self.model.loss_sum
        if chosen.warning:
            self.folder.event("device", chosen.warning)
        differing = [key for key, now in self.computing.items() if before.get(key, now) != now]
        if differing:
            changes = [f"{key} {before[key]} -> {self.computing[key]}" for key in differing]
            self.folder.event("computes otherwise", f"not to the byte as before: {', '.join(changes)}")

    def begin(self, found: Checkpoint | None) -> None:
        """Bring state and files to where the checkpoint is, or to the start."""
        if found:
            self.restore(found)
            self.saved_step = found.step
            self.folder.event("resumed", f"from {found.folder.name} at step {found.step}")
        else:
            self.folder.start_anew(self.identity)
            self.folder.event("started", f"{self.model.num_parameters():,} parameters, {self.computing['precision']}")
        self.folder.describe(self.config, self.tokenizer, self.data_sha256)
        if math.isinf(self.folder.best_val_loss):  # none, or set aside as corrupt: the next evaluation is the best
            self.progress.best_val_loss = None
        self.clock = Clock(self.progress.seconds, self.max_seconds)
        if found and found.folder == self.folder.before_cool_down:
            self.leave_cool_down()

    def leave_cool_down(self) -> None:
        """Make the state before the cool-down the newest; what followed it is no longer part of this training."""
        self.folder.event("extended", "more steps or time than before: the cool-down comes later")
        self.write_checkpoint(checkpoint.step_folder(self.folder.checkpoints, self.progress.step))
        checkpoint.remove_after(self.folder.checkpoints, self.progress.step)

    def restore(self, found: Checkpoint) -> None:
        self.progress = Progress.from_state_dict(found.state["progress"])
        checkpoint.put_weights(self.model, found.weights, str(found.folder))
        self.optimizer.load_state_dict(found.state["optimizer"])
        checkpoint.restore_random_state(found.state["random"], self.device)
        self.folder.go_back_to(found.step)

    def compiled(self):
        """The loss through torch.compile, or as it is where any part of the compiler fails."""
        self.folder.beat("compiling")
        before = checkpoint.random_state(self.device)
        tokens = torch.zeros(self.micro_batch, self.config.model.block_size, dtype=torch.long, device=self.device)
        try:
            loss_sum = torch.compile(self.model.loss_sum)
            with devices.autocast(self.device, self.precision):
                loss_sum(tokens, tokens)[0].backward()
        except Exception as error:
            self.folder.event("not compiled", f"eager instead: {type(error).__name__}: {error}"[:500])
            loss_sum = self.model.loss_sum
        checkpoint.restore_random_state(before, self.device)
        return loss_sum


def native_precision(device: str) -> str:
    """The fastest type that `device` multiplies in hardware; a fact, not a timing, so that two runs agree on it.

    MPS: float32, because opinions on bfloat16 differ by the chip (26 % less memory, 17 % slower to 31 % faster).
    """
    return "bfloat16" if device != "mps" and devices.native_bfloat16(device) else "float32"


def with_vocabulary(config: Config, vocab_size: int) -> Config:
    """`config` with the data's vocabulary. Raises UserError when it asks for a smaller one."""
    asked = config.model.vocab_size
    if asked is not None and asked < vocab_size:
        raise UserError(f"model.vocab_size: found {asked}, but the data has {vocab_size} different tokens")
    return config.with_changes({"model.vocab_size": asked or vocab_size})
