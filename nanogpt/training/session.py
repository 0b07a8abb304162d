"""One session of a training: everything that it stands on, brought to the start or to where a checkpoint is."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import torch

from nanogpt import durable
from nanogpt.config import Config
from nanogpt.data.data_loader import Samples
from nanogpt.data.shards import MANIFEST, open_split, verify
from nanogpt.data.tokenizer import Tokenizer, load_tokenizer
from nanogpt.faults import CorruptFileError, NonFiniteError, UserError
from nanogpt.model.gpt import GPT
from nanogpt.training import compute as computing
from nanogpt.training.gradients import Gradients, StepData
from nanogpt.training.parity import Parity, require_parity
from nanogpt.training.progress import Progress, check_same_training, trajectory
from nanogpt.training.record import tracking
from nanogpt.training.record.model_folder import ModelFolder, context_of
from nanogpt.training.stopping import StopRequest
from nanogpt.training.stopwatch import Clock
from nanogpt.training.update.averaging import WeightAverage
from nanogpt.training.update.growth import window_at
from nanogpt.training.update.optimizer import Optimizer
from nanogpt.training.update.stability import LEARNING_RATE_AFTER_REWIND, MAX_REWINDS
from nanogpt.training.validation import Judge
from nanogpt.weights import checkpoint
from nanogpt.weights.checkpoint import Checkpoint

CHECKED_BYTES = 256 << 20  # of data, before each checkpoint: 0.5 s a time (0.5 GB/s); tiny Shakespeare takes 3 ms
WITH_MOMENTS = 3  # times the bytes of the weights: AdamW makes its two moments at the first step
LARGER_CLOCK = 1.1  # a clock that grew by more is a larger budget: the cool-down is taken back and comes later


class Session:
    """Data, model, optimizer, progress, folder and clock, and the checkpoints that hold and bring back their state."""

    def __init__(
        self, config: Config, data_folder: Path, model_folder: Path, max_seconds: float | None,
        micro_batch: int | None, stop: StopRequest,
    ):  # fmt: skip
        tracking.require(config)
        verify(data_folder)
        self.train_split, self.val_split = (open_split(data_folder, name) for name in ("train", "val"))
        self.tokenizer = load_tokenizer(data_folder)
        config = with_initial_shape(config, self.tokenizer)
        self.config = config = with_vocabulary(config, self.train_split.vocab_size)
        self.samples = Samples(self.train_split.tokens, config.model.block_size, config.training.seed)
        self.data_folder, self.data_sha256 = data_folder, durable.sha256_file(data_folder / MANIFEST)
        self.identity = trajectory(config, self.data_sha256)
        self.max_seconds = max_seconds or config.training.max_seconds
        self.whole_batch = config.training.batch_size * config.training.gradient_accumulation  # sequences a step
        self.asked_micro_batch = micro_batch
        self.model_folder, self.stop = model_folder, stop
        self.folder: ModelFolder  # opened by whoever closes it
        self.progress = Progress.at_start(config)
        self.val_loss: float | None = None
        self.saved_step = -1
        self.compared: tuple[int, int] | None = None  # the shape of a pass, on the device and on the CPU

    def open(self) -> None:
        """Go on from the newest checkpoint in the folder, or begin. Raises UserError, OSError."""
        found = self.newest_checkpoint()
        self.set_up(found)
        self.begin(found)

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
        """Whether this session may take more steps, or more time where time was short, than what began to cool down."""
        max_iters = self.config.training.max_iters
        if found.facts["trajectory"]["training.max_iters"] < max_iters:
            return True
        clock, end = found.state["progress"]["max_seconds"], found.state["progress"]["cool_down"]["end"]
        return clock is not None and end < max_iters and (self.max_seconds or math.inf) > LARGER_CLOCK * clock

    def set_up(self, found: Checkpoint | None) -> None:
        """Model, optimizer and what computes with them; a resumed run computes as it did before."""
        before, folder = found.facts if found else {}, self.folder
        self.computing, warning = computing.choose(self.config.device, before)
        self.device = self.computing.device
        seed = self.config.training.seed
        torch.manual_seed(seed)  # dropout's generator; the model has its own
        self.model = self.made_model(fresh=found is None).to(self.device).train()
        self.model.gradient_checkpointing = self.config.device.gradient_checkpointing
        newton_schulz = getattr(torch, self.computing.newton_schulz)
        self.optimizer = Optimizer(self.model, self.config.training, newton_schulz)
        self.average = self.made_average()
        micro_batch = self.asked_micro_batch or self.settled_micro_batch(before)
        self.gradients = Gradients(
            self.model, self.optimizer, self.samples, self.computing, micro_batch, self.stop, folder.beat,
            folder.event, self.config.context,
        )  # fmt: skip
        self.judge = Judge(
            self.model, self.tokenizer, self.val_split, self.computing, self.config.context, self.stop, folder.beat
        )
        if self.config.device.compile:
            self.gradients.compile()
        if warning:
            folder.event("device", warning)
        if changes := self.computing.differences(before, micro_batch=micro_batch):
            told = ", ".join(f"{name} {change}" for name, change in changes.items())
            folder.event("computes otherwise", f"not to the byte as before: {told}")

    @property
    def micro_batch(self) -> int:
        """Windows in one forward and backward pass; fewer once memory has run out."""
        return self.gradients.micro_batch

    def settled_micro_batch(self, before: dict) -> int:
        """What an earlier session settled on, perhaps after running out of memory, unless the setting has changed."""
        asked = self.config.training.batch_size
        return before["micro_batch"] if before.get("batch_size") == asked else asked

    def made_model(self, fresh: bool) -> GPT:
        """The model, with the weights that training.init_from names at a fresh start, and adapters where asked for.

        The checkpoints of adapters hold nothing else, so the weights under them are read again at each start.
        """
        config = self.config.training
        model = GPT(self.config.model, seed=config.seed)
        if config.init_from is not None and (fresh or config.lora_rank):
            from nanogpt.training.initial_weights import put_initial_weights  # most trainings start from scratch

            self.folder.event("initial weights", put_initial_weights(model, self.config))
        if config.lora_rank:
            from nanogpt.model.lora import add_adapters

            add_adapters(model, config.lora_rank, config.lora_alpha, config.seed)
        return model

    def made_average(self) -> WeightAverage | None:
        decay = self.config.training.weight_average
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return WeightAverage(trained, decay) if decay else None

    def begin(self, found: Checkpoint | None) -> None:
        """Bring state and files to where the checkpoint is, or to the start."""
        if found:
            self.restore(found)
            self.saved_step = found.step
            self.folder.event("resumed", f"from {found.folder.name} at step {found.step}")
        else:
            self.folder.start_anew(self.identity)
            self.folder.event("started", f"{self.model.num_parameters():,} parameters, {self.computing.precision}")
        self.folder.describe(self.tokenizer, self.data_sha256)
        self.folder.track()
        if math.isinf(self.folder.best_val_loss):  # none that compares: the next evaluation is the best
            self.progress.best_val_loss = None
        if found and {"device", "precision"} & self.computing.differences(found.facts).keys():
            self.progress.rewinds = 0  # what was bad there may be good here: the remedy has all its attempts
        self.check_device()
        self.clock = Clock(self.progress.seconds, self.max_seconds)
        if found and found.folder == self.folder.before_cool_down:
            self.leave_cool_down()

    # ---- what the next step sees

    @property
    def batch(self) -> int:
        """Sequences in the next step."""
        return self.progress.growth.size if self.progress.growth else self.whole_batch

    @property
    def window(self) -> int:
        """Tokens in each window of the next step."""
        first, last = self.config.training.initial_block_size, self.config.model.block_size
        window = window_at(self.progress.step, first, last, self.progress.curriculum_steps)
        return min(window, self.config.context)

    @property
    def loss_scale(self) -> float:
        return self.progress.loss_scale.factor if self.computing.precision == "float16" else 1.0

    @property
    def step_data(self) -> StepData:
        """The samples of the next step."""
        return StepData(self.progress.cursor, self.batch, self.window)

    def check_device(self) -> None:
        """On an accelerator, at each start and at each new shape of a pass: whether it computes this training as the
        CPU does. Raises DeviceError.

        A batch or a window that grows changes the shape, after which MPS's gradients were wrong (pytorch #177116).
        Where there is no memory for it, the micro-batch halves as in a step. Raises OutOfMemory.
        """
        if self.device == "cpu" or self.shape_of_a_pass == self.compared:
            return
        self.folder.beat("comparing the device with the CPU")
        self.optimizer.forget_gradients()  # of the last step: the comparison makes a set of its own
        found = self.gradients.complete(self.step_data, self.compare_with_cpu)
        self.compared = self.shape_of_a_pass
        if found:
            told = f"loss within {found.loss:.0e}, gradients within {found.gradient:.0e} of the CPU's"
            self.folder.event("parity", f"{told}, on {found.tokens} tokens in {found.seconds:.1f} s", **asdict(found))

    @property
    def shape_of_a_pass(self) -> tuple[int, int]:
        """Windows and tokens of each, in the next step's first pass."""
        tokens = min(self.micro_batch * self.config.context, self.batch * self.config.model.block_size)
        return tokens // self.window, self.window

    def compare_with_cpu(self) -> Parity | None:
        tokens, targets = next(self.gradients.passes(self.step_data))
        return require_parity(self.model, tokens, targets, self.computing.precision, self.loss_scale)

    # ---- there and back

    def leave_cool_down(self) -> None:
        """Make the state before the cool-down the newest; what followed it is no longer part of this training."""
        self.folder.event("extended", "more steps or time than before: the cool-down comes later")
        self.folder.go_back_to(self.progress.step)  # once more: for what tracks it, too
        self.write_checkpoint(checkpoint.step_folder(self.folder.checkpoints, self.progress.step))
        checkpoint.remove_after(self.folder.checkpoints, self.progress.step)

    def restore(self, found: Checkpoint) -> None:
        """Take over the state of a checkpoint; the rows that it has yet to write are dropped."""
        self.progress = Progress.from_state_dict(found.state["progress"])
        if (context := context_of(found.facts, self.config)) != self.config.context:
            self.progress.best_val_loss, self.progress.evaluations_without_gain = None, 0
            told = f"windows of {context} -> {self.config.context} tokens, whose losses do not compare"
            self.folder.event("best anew", f"{told}: the next evaluation is the best")
        checkpoint.put_weights(self.model, found.weights, str(found.folder))
        self.optimizer.load_state_dict(found.state["optimizer"])
        if self.average:
            self.average.load_state_dict(found.state["average"])
        checkpoint.restore_random_state(found.state["random"], self.device)
        self.folder.go_back_to(found.step, json.loads(found.state.get("rows", "null")))

    def rewind(self) -> None:
        """Back to a healthy checkpoint, with half the learning rate and other data ahead.

        Only to a checkpoint of the regular interval, which every run has, interrupted or not, and from before the bad
        steps began; or, soon after a cool-down was taken back, to the one before it. Raises NonFiniteError.
        """
        stability = self.progress.stability
        told = f"{stability.suspicion} at step {self.progress.step}"
        if self.progress.rewinds >= MAX_REWINDS:
            raise NonFiniteError(f"{told}, after {MAX_REWINDS} rewinds")
        interval, step = self.config.training.checkpoint_interval, self.progress.step
        found = self.folder.newest(interval, step - stability.steps_since_healthy())
        if found is None:  # bad steps far apart may reach back beyond what is kept; all kept weights are of good steps
            found = self.folder.newest(interval, step - stability.bad_in_a_row)
        if found is None:
            found = self.folder.newest(at_most=step - stability.bad_in_a_row)
        if found is None:
            raise NonFiniteError(f"{told}, and no checkpoint to go back to")
        bad, seconds = self.progress, self.clock.seconds()
        self.restore(found)
        self.progress.rewinds = bad.rewinds + 1
        self.progress.learning_rate_scale = bad.learning_rate_scale * LEARNING_RATE_AFTER_REWIND
        self.progress.cursor = bad.cursor
        self.progress.stability.forgive()
        self.progress.stability.skipped = stability.skipped
        self.clock = Clock(seconds, self.max_seconds)
        checkpoint.remove_after(self.folder.checkpoints, found.step)  # an interruption's, of what is left behind
        self.saved_step = -1
        rate = self.progress.learning_rate_scale
        lost = {"steps_lost": bad.step - found.step, "seconds_lost": round(seconds - self.progress.seconds, 1)}
        self.folder.event("rewound", f"{told}; back to {found.step} at {rate:g} x learning rate", **lost)

    def save(self) -> None:
        """A checkpoint of this step, unless it is there; then the oldest go."""
        if self.saved_step == self.progress.step:
            return
        before = checkpoint.step_folder(self.folder.checkpoints, self.saved_step)
        if self.saved_step >= 0 and not before.is_dir():
            self.folder.event("checkpoint missing", f"{before} is gone: it was removed from outside")
        self.write_checkpoint(checkpoint.step_folder(self.folder.checkpoints, self.progress.step))
        self.saved_step = self.progress.step
        config = self.config.training
        checkpoint.prune(self.folder.checkpoints, config.keep_checkpoints, config.checkpoint_interval)

    def hold_room(self) -> None:
        """Keep room for the next checkpoint as long as there is some. Raises NoRoomError when nothing is lost: the
        state is saved first, in the room that was held."""
        if self.folder.room.is_given_up:
            self.save()
        if self.saved_step == self.progress.step:
            trained = sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)
            self.folder.hold_room(WITH_MOMENTS * trained)

    def write_checkpoint(self, folder: Path) -> None:
        with self.clock.aside("saving"):
            self.check_data()
            self.progress.seconds = self.clock.seconds()
            state = {
                "progress": self.progress.state_dict(), "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict() if self.average else None,
                "random": checkpoint.random_state(self.device),
            }  # fmt: skip
            self.folder.save(folder, self.model, self.facts(), state)
        self.clock.saved()

    def check_data(self) -> None:
        """No checkpoint is of data that rotted under the training: most wrong ids train without a word.

        More than CHECKED_BYTES are checked at the start alone. Raises CorruptFileError.
        """
        if self.train_split.tokens.nbytes + self.val_split.tokens.nbytes > CHECKED_BYTES:
            return
        try:
            verify(self.data_folder)
        except UserError as error:  # it was a data folder at the start
            raise CorruptFileError(str(error)) from error
        if durable.sha256_file(self.data_folder / MANIFEST) != self.data_sha256:
            raise CorruptFileError(f"{self.data_folder} was written anew while it was learned from")

    def facts(self) -> dict:
        """What a checkpoint's manifest says about how it was made."""
        return {
            "trajectory": self.identity, "micro_batch": self.micro_batch, "batch_size": self.config.training.batch_size,
            "context": self.config.context,
            "config_sha256": durable.digest(self.config.model_dump()), **asdict(self.computing),
        }  # fmt: skip


def with_initial_shape(config: Config, tokenizer: Tokenizer) -> Config:
    """`config` with the shape of the weights that training.init_from names, if any; they must read as `tokenizer` does.

    Raises UserError.
    """
    source = config.training.init_from
    if source is None:
        return config
    from nanogpt.training.initial_weights import check_vocabulary, config_with_shape_of

    check_vocabulary(source, tokenizer)
    return config_with_shape_of(config, source)


def with_vocabulary(config: Config, vocab_size: int) -> Config:
    """`config` with the data's vocabulary. Raises UserError when it asks for a smaller one."""
    asked = config.model.vocab_size
    if asked is not None and asked < vocab_size:
        raise UserError(f"model.vocab_size: found {asked}, but the data has {vocab_size} different tokens")
    return config.with_changes({"model.vocab_size": asked or vocab_size})
