"""The training loop: from a configuration and a data folder to a model folder, through any interruption.

    model folder/  config.yaml  data.json  tokenizer.json  metrics.jsonl  samples.jsonl  events.jsonl  heartbeat
                   checkpoints/step-00000500/  checkpoints/before-cooldown/  best/  final/  outcome.json

The state is always that before the evaluation of its step. It is saved first and evaluated then, so whatever is
interrupted is repeated from there with the same outcome, to the byte on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from nanogpt import device as devices
from nanogpt import durable
from nanogpt.config import Config, save_config
from nanogpt.data.data_loader import IGNORED, Samples, windows
from nanogpt.data.shards import open_split
from nanogpt.data.tokenizer import load_tokenizer
from nanogpt.faults import NonFiniteError, UserError
from nanogpt.inference.engine import Engine
from nanogpt.model.gpt import GPT
from nanogpt.training import checkpoint
from nanogpt.training.checkpoint import Checkpoint
from nanogpt.training.lifeline import StopRequest, StopRequested
from nanogpt.training.metrics import Heartbeat, JsonLines
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
    NonFiniteError after the last rewind, OSError (disk), and what a device raises when it is out of memory.
    """
    trainer = Trainer(config, Path(data_folder), Path(model_folder), max_seconds, micro_batch, stop or StopRequest())
    return trainer.run()


class Trainer:
    """One session of a training."""

    def __init__(
        self, config: Config, data_folder: Path, folder: Path, max_seconds: float | None,
        micro_batch: int | None, stop: StopRequest,
    ):  # fmt: skip
        self.train_split, self.val_split = (open_split(data_folder, name) for name in ("train", "val"))
        self.config = config = with_vocabulary(config, self.train_split.vocab_size)
        self.samples = Samples(self.train_split.tokens, config.model.block_size, config.training.seed)
        self.data_sha256 = durable.sha256_file(data_folder / "manifest.json")
        self.tokenizer = load_tokenizer(data_folder)
        self.identity = trajectory(config, self.data_sha256)

        self.folder, self.stop = folder, stop
        self.max_seconds = max_seconds or config.training.max_seconds
        self.batch = config.training.batch_size * config.training.gradient_accumulation  # sequences a step
        self.micro_batch = min(micro_batch or config.training.batch_size, self.batch)
        self.tokens_per_step = self.batch * config.model.block_size
        self.progress = Progress()
        self.val_loss = self.final_sha256 = None
        self.saved_step = -1

    # ---------------------------------------------------------------- the loop

    def run(self) -> Outcome:
        self.open_files()
        found = self.newest_checkpoint()
        self.set_up(found)
        self.begin(found)
        try:
            while True:
                self.plan_cool_down()
                reason = self.reason_to_end()
                self.stop.check()
                if reason or self.is_due("checkpoint_interval") or self.is_due("eval_interval"):
                    self.save()
                if reason or (self.progress.step and self.is_due("eval_interval")):
                    self.evaluate()
                if self.sample_is_due(reason):
                    self.write_sample()
                reason = reason or self.reason_to_end()
                if reason:
                    return self.finish(reason)
                self.step()
        except StopRequested:
            self.save()
            self.event("stopped", "asked to stop; saved")
            return self.outcome("stopped", "asked to stop")
        finally:
            self.close_files()

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
        self.steps_here += 1
        if verdict:
            self.event("skipped", f"{verdict}: loss {loss:.4g}, gradient norm {gradient_norm:.4g}")
        if progress.stability.must_rewind:
            self.rewind()
        elif self.is_due("log_interval") or progress.step == 1:
            self.log_step(loss, gradient_norm, config.learning_rate * factor)
        self.heartbeat.beat(progress.step, "training", **self.vital_signs)

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
            with devices.autocast(self.device, self.mixed_precision):
                summed, _ = self.loss_sum(tokens, targets)
            loss = summed / self.tokens_per_step
            loss.backward()
            total += loss.detach()
            self.heartbeat.beat(self.progress.step, "training", **self.vital_signs)
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

        Only to a checkpoint of the regular interval, which every run has, interrupted or not. Raises NonFiniteError.
        """
        told = f"{self.progress.stability.bad_in_a_row} bad steps in a row at step {self.progress.step}"
        if self.progress.rewinds >= MAX_REWINDS:
            raise NonFiniteError(f"{told}, after {MAX_REWINDS} rewinds")
        found = checkpoint.load_newest(self.checkpoints, self.set_aside, self.config.training.checkpoint_interval)
        if found is None:
            raise NonFiniteError(f"{told}, and no checkpoint to go back to")
        bad, self.progress = self.progress, Progress.from_state_dict(found.state["progress"])
        self.progress.rewinds = bad.rewinds + 1
        self.progress.learning_rate_scale = bad.learning_rate_scale * LEARNING_RATE_AFTER_REWIND
        self.progress.cursor = bad.cursor
        self.progress.seconds = self.seconds()
        self.restart_clock()
        self.restore(found)
        self.drop_rows_after(found.step)
        checkpoint.remove_after(self.checkpoints, found.step)  # an interruption's, of the trajectory that is left
        self.saved_step = -1
        self.event("rewound", f"{told}; back to {found.step} at {self.progress.learning_rate_scale:g} x learning rate")

    # ---------------------------------------------------------------- when

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
        if config.early_stopping_patience and progress.evaluations_without_gain >= config.early_stopping_patience:
            return "early stopping"
        return None

    def plan_cool_down(self) -> None:
        """WSD: begin the cool-down when the steps or the clock say so; the state before it is kept."""
        progress, config = self.progress, self.config.training
        if config.schedule != "wsd":
            return
        if self.max_seconds and self.steps_here:
            planned = cool_down_for_clock(
                progress.step, self.seconds_left(), self.pace(), config, progress.cool_down
            )
        elif progress.cool_down is None and progress.step >= planned_cool_down(config).start:
            planned = planned_cool_down(config)
        else:
            return
        if planned and progress.cool_down is None:
            self.write_checkpoint(self.checkpoints / checkpoint.BEFORE_COOL_DOWN)
            self.event("cool-down", f"from step {planned.start} to {planned.end}")
        progress.cool_down, progress.max_seconds = planned, self.max_seconds

    def seconds(self) -> float:
        """Training time over all sessions, evaluations included."""
        return self.seconds_at_start + time.monotonic() - self.started

    def seconds_left(self) -> float:
        """Until the clock runs out, less what the last evaluation and sample will take."""
        evaluation = self.evaluation_seconds
        if evaluation is None:  # forward alone is a third of a step's work
            evaluation = self.pace() * len(self.val_split.tokens) / (3 * self.tokens_per_step)
        return self.max_seconds - self.seconds() - 1.2 * (evaluation + (self.sample_seconds or 0.0))

    def pace(self) -> float:
        """Seconds a step in this session, evaluations and savings included."""
        return (self.seconds() - self.seconds_at_start) / max(1, self.steps_here)

    def restart_clock(self) -> None:
        self.started, self.seconds_at_start = time.monotonic(), self.progress.seconds
        self.steps_here, self.logged = 0, (time.monotonic(), self.progress.step)
        self.seconds_aside = 0.0  # spent beside stepping since the last row of metrics

    # ---------------------------------------------------------------- save, evaluate, sample, finish

    def save(self) -> None:
        """A checkpoint of this step, unless it is there; then the oldest go."""
        if self.saved_step == self.progress.step:
            return
        self.write_checkpoint(checkpoint.step_folder(self.checkpoints, self.progress.step))
        self.saved_step = self.progress.step
        config = self.config.training
        checkpoint.prune(self.checkpoints, config.keep_checkpoints, config.checkpoint_interval)

    def write_checkpoint(self, folder: Path) -> None:
        began = time.monotonic()
        self.heartbeat.beat(self.progress.step, "saving", **self.vital_signs)
        self.metrics.sync()
        self.progress.seconds = self.seconds()
        state = {
            "progress": self.progress.state_dict(), "optimizer": self.optimizer.state_dict(),
            "random": checkpoint.random_state(self.device),
        }  # fmt: skip
        checkpoint.save(folder, self.model, step=self.progress.step, facts=self.facts(), state=state)
        self.seconds_aside += time.monotonic() - began

    def facts(self) -> dict:
        """What a checkpoint's manifest says about how it was made."""
        return {"trajectory": self.identity, "micro_batch": self.micro_batch, **self.computing}

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean loss over the whole validation split in windows of block_size, nats a token."""
        block_size = self.config.model.block_size
        rows = max(1, min(TOKENS_AT_ONCE // block_size, 4 * self.micro_batch))
        total, count = 0.0, 0
        self.model.eval()
        with devices.autocast(self.device, self.mixed_precision):
            for tokens, targets in windows(self.val_split.tokens, block_size, rows):
                summed, _ = self.model.loss_sum(tokens.to(self.device), targets.to(self.device))
                total += summed.item()
                count += int((targets != IGNORED).sum())
                self.heartbeat.beat(self.progress.step, "evaluating", **self.vital_signs)
        self.model.train()
        return total / count

    def evaluate(self) -> None:
        """Judge the weights by the validation split; keep them in best/ when they are the best."""
        began, progress = time.monotonic(), self.progress
        self.heartbeat.beat(progress.step, "evaluating", **self.vital_signs)
        try:
            with self.stop.interruptible():
                self.val_loss = self.validation_loss()
        finally:
            self.model.train()
        better = math.isfinite(self.val_loss) and self.val_loss < (progress.best_val_loss or math.inf)
        if better:
            progress.best_val_loss, progress.best_step = self.val_loss, progress.step
        progress.evaluations_without_gain = 0 if better else progress.evaluations_without_gain + 1
        if math.isfinite(self.val_loss) and self.val_loss < self.best_on_disk:
            facts = {**self.facts(), "val_loss": self.val_loss}
            checkpoint.save(self.folder / "best", self.model, step=progress.step, facts=facts)
            self.best_on_disk = self.val_loss
        split = self.val_split
        self.metrics.append({
            "kind": "eval", "step": progress.step, "val_loss": self.val_loss,
            "train_loss": progress.stability.recent_loss(),  # mean of the last 128 steps, dropout included
            "bits_per_byte": self.val_loss / math.log(2) * len(split.tokens) / split.bytes,
            "seconds": round(self.seconds(), 3), "best": better,
        })  # fmt: skip
        self.vital_signs["val_loss"] = self.val_loss if math.isfinite(self.val_loss) else None
        self.evaluation_seconds = time.monotonic() - began
        self.seconds_aside += self.evaluation_seconds

    def write_sample(self) -> None:
        """What the model writes now, from a generator of its own: training does not notice."""
        began = time.monotonic()
        try:
            with self.stop.interruptible():
                pieces = []
                for piece in Engine(self.model, self.tokenizer, self.device).generate(
                    "\n", SAMPLE_TOKENS, SAMPLE_TEMPERATURE, seed=self.config.training.seed
                ):
                    pieces.append(piece)
                    self.heartbeat.beat(self.progress.step, "writing a sample", **self.vital_signs)
        finally:
            self.model.train()
        text = "".join(pieces)
        self.written.append({"step": self.progress.step, "temperature": SAMPLE_TEMPERATURE, "text": text})
        self.sample_seconds = time.monotonic() - began
        self.seconds_aside += self.sample_seconds

    def log_step(self, loss: float, gradient_norm: float, learning_rate: float) -> None:
        now, (before, step_before) = time.monotonic(), self.logged
        stepping = max(1e-9, now - before - self.seconds_aside)
        rate = (self.progress.step - step_before) * self.tokens_per_step / stepping
        self.logged, self.seconds_aside = (now, self.progress.step), 0.0
        row = {
            "loss": loss, "learning_rate": learning_rate, "grad_norm": gradient_norm,
            "tokens": self.progress.step * self.tokens_per_step, "seconds": round(self.seconds(), 3),
            "tokens_per_second": round(rate, 1), "memory_bytes": devices.memory_in_use(self.device),
        }  # fmt: skip
        self.metrics.append({"kind": "train", "step": self.progress.step, **row})
        remaining = (self.config.training.max_iters - self.progress.step) * self.tokens_per_step / rate
        if self.max_seconds:
            remaining = min(remaining, max(0.0, self.seconds_left()))
        shown = ("loss", "tokens_per_second", "memory_bytes", "seconds")
        self.vital_signs |= {key: row[key] for key in shown} | {"eta_seconds": round(remaining, 1)}

    def finish(self, reason: str) -> Outcome:
        """Write final/ and outcome.json."""
        facts = {**self.facts(), "val_loss": self.val_loss}
        self.final_sha256 = checkpoint.save(
            self.folder / "final", self.model, step=self.progress.step, facts=facts
        )
        self.event("finished", reason)
        outcome = self.outcome("finished", reason)
        durable.write_json(self.folder / "outcome.json", asdict(outcome))
        self.heartbeat.beat(self.progress.step, "finished", **self.vital_signs)
        return outcome

    def outcome(self, status: str, reason: str) -> Outcome:
        best = self.folder / "best"
        best_manifest = checkpoint.read_manifest(best) if best.is_dir() else None
        tokens, seconds = self.progress.step * self.tokens_per_step, self.seconds()
        return Outcome(
            status, reason, self.progress.step, round(seconds, 3), tokens,
            best_manifest["facts"]["val_loss"] if best_manifest else None,
            best_manifest["step"] if best_manifest else 0,
            self.val_loss, self.final_sha256, self.model.num_parameters(), round(tokens / seconds, 1),
            devices.peak_memory(self.device), self.device, self.computing["precision"],
        )  # fmt: skip

    # ---------------------------------------------------------------- start and resume

    def open_files(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "outcome.json").unlink(missing_ok=True)
        self.checkpoints = self.folder / "checkpoints"
        self.metrics = JsonLines(self.folder / "metrics.jsonl")
        self.written = JsonLines(self.folder / "samples.jsonl")
        self.events = JsonLines(self.folder / "events.jsonl")
        self.heartbeat = Heartbeat(self.folder / "heartbeat", self.config.training.max_iters)
        self.vital_signs: dict = {}
        self.heartbeat.beat(0, "loading")

    def close_files(self) -> None:
        for file in (self.metrics, self.written, self.events):
            file.close()

    def newest_checkpoint(self) -> Checkpoint | None:
        """Where to go on. Raises UserError when the folder is another training's."""
        found = checkpoint.load_newest(self.checkpoints, self.set_aside)
        if found is None:
            return None
        schedule = self.config.training.schedule
        check_same_training(found.facts["trajectory"], self.identity, schedule, str(self.folder))
        if found.state["progress"]["cool_down"] and self.has_grown(found):
            earlier = checkpoint.load_or_set_aside(self.checkpoints / checkpoint.BEFORE_COOL_DOWN, self.set_aside)
            if earlier:
                self.event("extended", f"more steps or time: on from step {earlier.step}, before the cool-down")
                return earlier
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
        wanted = self.config.device
        chosen = devices.choose(wanted.type)
        self.device = chosen.device
        torch.set_num_threads(wanted.threads or before.get("threads") or devices.physical_cores())
        torch.set_float32_matmul_precision("high")  # TF32 on CUDA; nothing changes elsewhere
        native = native_precision(self.device)
        same_device = before.get("device") == self.device
        self.mixed_precision = wanted.mixed_precision
        if wanted.mixed_precision == "auto":
            self.mixed_precision = (before["precision"] if same_device else native) == "bfloat16"
        orthogonalize_in = before["newton_schulz"] if same_device else native
        self.computing = {
            "device": self.device, "precision": "bfloat16" if self.mixed_precision else "float32",
            "newton_schulz": orthogonalize_in, "threads": torch.get_num_threads(), "torch": torch.__version__,
        }  # fmt: skip
        torch.manual_seed(self.config.training.seed)  # dropout's generator; the model has its own
        self.model = GPT(self.config.model, seed=self.config.training.seed).to(self.device).train()
        self.optimizer = Optimizer(self.model, self.config.training, getattr(torch, orthogonalize_in))
        if chosen.warning:
            self.event("device", chosen.warning)
        differing = [key for key, now in self.computing.items() if before.get(key, now) != now]
        if differing:
            changes = [f"{key} {before[key]} -> {self.computing[key]}" for key in differing]
            self.event("computes otherwise", f"not to the byte as before: {', '.join(changes)}")

    def begin(self, found: Checkpoint | None) -> None:
        """Bring state and files to where the checkpoint is, or to the start."""
        if found:
            self.progress = Progress.from_state_dict(found.state["progress"])
            self.restart_clock()
            self.restore(found)
            self.drop_rows_after(found.step)
            self.saved_step = found.step
            self.event("resumed", f"from {found.folder.name} at step {found.step}")
            if found.folder.name == checkpoint.BEFORE_COOL_DOWN:
                self.leave_cool_down()
        else:
            self.drop_rows_after(0)
            save_config(self.config, self.folder / "config.yaml")
            self.tokenizer.save(self.folder)
            durable.write_json(self.folder / "data.json", {"manifest_sha256": self.data_sha256})
            self.event("started", f"{self.model.num_parameters():,} parameters, {self.computing['precision']}")
        best = checkpoint.load_or_set_aside(self.folder / "best", self.set_aside)
        self.best_on_disk = best.facts["val_loss"] if best else math.inf
        self.loss_sum = self.compiled() if self.config.device.compile else self.model.loss_sum
        self.restart_clock()
        self.evaluation_seconds = self.sample_seconds = None

    def leave_cool_down(self) -> None:
        """Make the state before the cool-down the newest; the steps that followed it are no longer this training's."""
        self.write_checkpoint(checkpoint.step_folder(self.checkpoints, self.progress.step))
        checkpoint.remove_after(self.checkpoints, self.progress.step)
        save_config(self.config, self.folder / "config.yaml")

    def restore(self, found: Checkpoint) -> None:
        checkpoint.put_weights(self.model, found.weights, str(found.folder))
        self.optimizer.load_state_dict(found.state["optimizer"])
        checkpoint.restore_random_state(found.state["random"], self.device)

    def drop_rows_after(self, step: int) -> None:
        """The state of a step is that before its evaluation and sample: they come again."""
        self.metrics.keep(lambda row: row["step"] <= step if row["kind"] == "train" else row["step"] < step)
        self.written.keep(lambda row: row["step"] < step)

    def compiled(self):
        """The loss through torch.compile, or as it is where any part of the compiler fails."""
        self.heartbeat.beat(self.progress.step, "compiling")
        before = checkpoint.random_state(self.device)
        tokens = torch.zeros(self.micro_batch, self.config.model.block_size, dtype=torch.long, device=self.device)
        try:
            loss_sum = torch.compile(self.model.loss_sum)
            with devices.autocast(self.device, self.mixed_precision):
                loss_sum(tokens, tokens)[0].backward()
        except Exception as error:
            self.event("not compiled", f"eager instead: {type(error).__name__}: {error}"[:500])
            loss_sum = self.model.loss_sum
        checkpoint.restore_random_state(before, self.device)
        return loss_sum

    def event(self, name: str, told: str) -> None:
        step = self.progress.step
        self.events.append({"event": name, "step": step, "time": time.time(), "message": told})

    def set_aside(self, path: Path, error: Exception) -> None:
        self.event("corrupt checkpoint", f"{path.name} is set aside: {error}")


def native_precision(device: str) -> str:
    """The fastest type that `device` multiplies in hardware; a fact, not a timing, so that two runs agree on it.

    MPS: float32, because opinions on bfloat16 differ by the chip (26 % less memory, 17 % slower to 31 % faster).
    """
    return "bfloat16" if device == "cuda" or (device == "cpu" and devices.native_bfloat16()) else "float32"


def with_vocabulary(config: Config, vocab_size: int) -> Config:
    """`config` with the data's vocabulary. Raises UserError when it asks for a smaller one."""
    asked = config.model.vocab_size
    if asked is not None and asked < vocab_size:
        raise UserError(f"model.vocab_size: found {asked}, but the data has {vocab_size} different tokens")
    return config.with_changes({"model.vocab_size": asked or vocab_size})
