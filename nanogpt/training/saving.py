"""Checkpoints of the state: when it is safe, what is written, and the room on the disk for the next one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanogpt import durable
from nanogpt.training.job import TrainingJob
from nanogpt.training.micro_batches import MicroBatches
from nanogpt.training.numerics import DROPPED, Numerics
from nanogpt.training.record.model_folder import ModelFolder
from nanogpt.training.state import TrainingState
from nanogpt.training.stopwatch import TrainingClock
from nanogpt.weights import checkpoint

WITH_MOMENTS = 3  # times the bytes of the weights: AdamW makes its two moments at the first step


@dataclass
class Saver:
    """Writes `state` into `folder`."""

    job: TrainingJob
    numerics: Numerics
    state: TrainingState
    micro_batches: MicroBatches
    folder: ModelFolder
    clock: TrainingClock
    saved_step: int = -1  # of the newest checkpoint that this training continues from

    def save(self) -> None:
        """A checkpoint of this step, unless there is one; then the oldest are removed."""
        step, config = self.state.progress.step, self.job.config.training
        if self.saved_step == step:
            return
        before = checkpoint.step_folder(self.folder.checkpoints, self.saved_step)
        if self.saved_step >= 0 and not before.is_dir():
            self.folder.event("checkpoint missing", f"{before} is gone: it was removed from outside")
        self.write(checkpoint.step_folder(self.folder.checkpoints, step))
        self.saved_step = step
        checkpoint.prune(self.folder.checkpoints, config.keep_checkpoints, config.checkpoint_interval)

    def write(self, folder: Path) -> None:
        """A checkpoint in `folder`. Raises CorruptFileError when the data has rotted, and the weights with it."""
        with self.clock.aside("saving"):
            self.job.data.check()
            self.state.progress.seconds = self.clock.seconds()
            self.folder.save(folder, self.state.state_dict(), self.facts())
        self.clock.saved()

    def hold_reserve(self) -> None:
        """Keep room on the disk for the next checkpoint.

        Raises NoRoomError when nothing is lost: the state is saved first, in the room that was held.
        """
        if self.folder.reserve.is_given_up:
            self.save()
        if self.saved_step == self.state.progress.step:
            trained = sum(p.numel() * p.element_size() for p in self.state.optimizer.parameters)
            self.folder.hold_reserve(WITH_MOMENTS * trained)

    def facts(self) -> dict[str, Any]:
        """What the manifest of a checkpoint says about how it was made."""
        config = self.job.config
        return {
            "trajectory": self.job.identity,
            "micro_batch": self.micro_batches.size,
            "batch_size": config.training.batch_size,
            "context": config.context,
            "config_sha256": durable.digest(config.model_dump()),
            **asdict(self.numerics),
            "dropped": DROPPED,
            "muon": muon.method if (muon := self.state.optimizer.muon) else None,
        }
