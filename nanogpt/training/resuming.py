"""There and back: where a session begins, and the way back from bad steps."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

from nanogpt.faults import NonFiniteError
from nanogpt.training.job import TrainingJob
from nanogpt.training.numerics import Numerics
from nanogpt.training.progress import check_same_training
from nanogpt.training.record.model_folder import ModelFolder, context_of
from nanogpt.training.saving import Saver
from nanogpt.training.state import TrainingState
from nanogpt.training.stopwatch import TrainingClock
from nanogpt.training.update.stability import LEARNING_RATE_AFTER_REWIND, MAX_REWINDS
from nanogpt.weights import checkpoint
from nanogpt.weights.checkpoint import Checkpoint

LARGER_CLOCK = 1.1  # a clock that grew by more is a larger budget: the cool-down is taken back and comes later


def find_checkpoint(job: TrainingJob, folder: ModelFolder) -> Checkpoint | None:
    """Where this session continues: the newest checkpoint, or the one before the cool-down, which more steps or more
    time take back; where that one is lost, the newest with its learning rate raised again. Raises UserError when the
    folder is another training's."""
    found = folder.newest()
    if found is None:
        return None
    check_same_training(found.facts["trajectory"], job.identity, job.config.training.schedule, str(job.folder))
    if found.state["progress"]["cool_down"] and _has_grown(job, found):
        return folder.load_before_cool_down() or _warmed_again(found, folder)
    return found


def _warmed_again(found: Checkpoint, folder: ModelFolder) -> Checkpoint:
    """`found` as if it had not begun to cool down: else the further steps would have the learning rate of its end.

    WSD-S continues from cooled weights always, at little loss (Wen et al. 2024, arXiv:2410.05192).
    """
    message = f"the state before the cool-down is lost: step {found.step} has the learning rate of a longer training"
    folder.event("warmed again", message)
    progress = {**found.state["progress"], "cool_down": None, "max_seconds": None}
    return replace(found, state={**found.state, "progress": progress})


def _has_grown(job: TrainingJob, found: Checkpoint) -> bool:
    """Whether this session may take more steps, or more time where time was short, than what began to cool down."""
    max_iters, progress = job.config.training.max_iters, found.state["progress"]
    if found.facts["trajectory"]["training.max_iters"] < max_iters:
        return True
    clock, end = progress["max_seconds"], progress["cool_down"]["end"]
    return clock is not None and end < max_iters and (job.max_seconds or math.inf) > LARGER_CLOCK * clock


def settled_micro_batch(job: TrainingJob, before: dict[str, Any]) -> int:
    """What was asked for, else what an earlier session settled on, perhaps after running out of memory, unless the
    setting has changed. `before`: the facts of its checkpoint."""
    configured = job.config.training.batch_size
    if job.micro_batch is not None:
        return job.micro_batch
    return int(before["micro_batch"]) if before.get("batch_size") == configured else configured


@dataclass
class Resumer:
    """Brings the state, and the rows on the disk with it, to a checkpoint."""

    job: TrainingJob
    numerics: Numerics
    state: TrainingState
    folder: ModelFolder
    saver: Saver
    clock: TrainingClock

    def begin(self, found: Checkpoint | None) -> None:
        """Continue from `found`, or begin at the first step."""
        progress, data = self.state.progress, self.job.data
        if found:
            self.restore(found)
            progress = self.state.progress
            self.saver.saved_step = found.step
            self.folder.event("resumed", f"from {found.folder.name} at step {found.step}")
        else:
            self.folder.start_anew(self.job.identity)
            parameters = self.state.model.num_parameters()
            self.folder.event("started", f"{parameters:,} parameters, {self.numerics.precision}")
        self.folder.describe(data.tokenizer, data.record)
        self.folder.track()
        if math.isinf(self.folder.best_val_loss):  # none that compares: the next evaluation is the best
            progress.best_val_loss = None
        if found and {"device", "precision"} & self.numerics.differences(found.facts).keys():
            progress.rewinds = 0  # what was bad there may be good here: the remedy has all its attempts

    def take_cool_down_back(self) -> None:
        """Make the state before the cool-down the newest; what followed it is no longer part of this training."""
        step = self.state.progress.step
        self.folder.event("extended", "more steps or time than before: the cool-down comes later")
        self.folder.go_back_to(step)  # once more: for what tracks it, too
        self.saver.write(checkpoint.step_folder(self.folder.checkpoints, step))
        checkpoint.remove_after(self.folder.checkpoints, step)

    def rewind(self) -> None:
        """Back to a healthy checkpoint, with half the learning rate and other data from there on.

        Raises NonFiniteError after MAX_REWINDS, or when there is no checkpoint to go back to.
        """
        bad, seconds = self.state.progress, self.clock.seconds()
        message = f"{bad.stability.suspicion} at step {bad.step}"
        if bad.rewinds >= MAX_REWINDS:
            raise NonFiniteError(f"{message}, after {MAX_REWINDS} rewinds")
        found = self._healthy_checkpoint()
        if found is None:
            raise NonFiniteError(f"{message}, and no checkpoint to go back to")
        self.restore(found)
        progress = self.state.progress
        lost = {"steps_lost": bad.step - found.step, "seconds_lost": round(seconds - progress.seconds, 1)}
        progress.rewinds = bad.rewinds + 1
        progress.learning_rate_scale = bad.learning_rate_scale * LEARNING_RATE_AFTER_REWIND
        progress.cursor = bad.cursor
        progress.stability.forgive()
        progress.stability.skipped = bad.stability.skipped
        self.clock.start(seconds)
        checkpoint.remove_after(self.folder.checkpoints, found.step)  # an interruption's, of what is left behind
        self.saver.saved_step = -1
        rate = progress.learning_rate_scale
        self.folder.event("rewound", f"{message}; back to {found.step} at {rate:g} x learning rate", **lost)

    def _healthy_checkpoint(self) -> Checkpoint | None:
        """From before the bad steps began, at the regular interval, which every run has, interrupted or not.

        Bad steps far apart may reach back beyond what is kept; all kept weights are of good steps. Soon after a
        cool-down was taken back there is only the one before it, at no regular interval.
        """
        stability, step = self.state.progress.stability, self.state.progress.step
        interval = self.job.config.training.checkpoint_interval
        return (
            self.folder.newest(interval, step - stability.steps_since_healthy())
            or self.folder.newest(interval, step - stability.bad_in_a_row)
            or self.folder.newest(at_most=step - stability.bad_in_a_row)
        )

    def restore(self, found: Checkpoint) -> None:
        """Take over the state of a checkpoint; the rows that it has yet to write are dropped."""
        self.state.load_state_dict(found.state_dict(), str(found.folder))
        context, before = self.job.config.context, context_of(found.facts, self.job.config)
        if before != context:
            self.state.progress.best_val_loss, self.state.progress.evaluations_without_gain = None, 0
            message = f"windows of {before} -> {context} tokens, whose losses do not compare"
            self.folder.event("best anew", f"{message}: the next evaluation is the best")
        self.folder.go_back_to(found.step, json.loads(found.state.get("rows", "null")))
