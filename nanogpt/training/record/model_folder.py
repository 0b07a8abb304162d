"""The folder of a model in training: every file that the trainer leaves there, and what may be dropped or replaced.

config.yaml  data.json  tokenizer.json  metrics.jsonl  samples.jsonl  events.jsonl  heartbeat  outcome.json  .room
checkpoints/step-00000500/  checkpoints/before-cooldown/  best/  final/  tensorboard/
"""

from __future__ import annotations

import errno
import json
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from nanogpt import durable
from nanogpt.config import Config, save_config
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.records import to_json
from nanogpt.results.training import TrainingData
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.training.record.metrics import HeartbeatFile, JsonLines, Row
from nanogpt.training.record.tracking import Tracker
from nanogpt.weights import checkpoint
from nanogpt.weights.checkpoint import Checkpoint
from nanogpt.weights.reserve import Reserve, is_no_room

Result = TypeVar("Result")


def make_folder(path: Path) -> None:
    """A folder at `path`, unless it is there. Raises UserError where there can be none, OSError without room for it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path}: is a file, or in one; expected the folder of a model, or a new one's name") from None
    except OSError as error:
        if is_no_room(error) or error.errno == errno.EIO:
            raise
        raise UserError(f"{path}: cannot be made ({error.strerror})") from None


def context_of(facts: Mapping[str, Any], config: Config) -> int:
    """Tokens in the windows that the validation loss of a checkpoint was measured in; once all had whole ones."""
    return int(facts.get("context", config.model.block_size))


class ModelFolder:
    """The open files of one session in `path`. `shown` are the figures of each heartbeat, after step and activity."""

    def __init__(self, path: Path, config: Config):
        """Raises UserError when `path` is a file."""
        make_folder(path)
        self.path, self.checkpoints, self.config = path, path / "checkpoints", config
        for folder in (self.checkpoints, path / "best", path / "final"):
            durable.unblock_folder(folder)
        self.metrics = JsonLines(path / "metrics.jsonl")
        self.samples = JsonLines(path / "samples.jsonl")
        self.events = JsonLines(path / "events.jsonl")
        self.shown: dict[str, float | None] = {}
        self.step = 0
        self.reserve = Reserve(path / ".room")
        self._saved_bytes = 0  # of the latest checkpoint
        self._heartbeat = HeartbeatFile(path / "heartbeat")
        self._tracker: Tracker | None = None
        self._best_val_loss: float | None = None
        self.beat("loading")
        for file in (self.metrics, self.samples, self.events):
            if file.was_set_aside:
                self.event("unreadable", f"{file.path.name} could not be opened: it is now {file.path.name}.bad")

    def describe(self, tokenizer: Tokenizer, data: TrainingData) -> None:
        """Write configuration, tokenizer and what the data is; an older outcome is no longer true."""
        durable.remove(self.path / "outcome.json")
        save_config(self.config, self.path / "config.yaml")
        tokenizer.save(self.path)
        durable.write_note(self.path / "data.json", to_json(data))

    def beat(self, activity: str) -> None:
        """Show life; cheap enough for every step."""
        self._write(lambda: self._heartbeat.beat(self.step, activity, **self.shown))

    def expect(self, steps: int, is_estimate: bool = False) -> None:
        """How many the training will make in all, 0 while nobody knows: the heartbeat has that from now on."""
        self._heartbeat.steps, self._heartbeat.is_estimate = steps, is_estimate

    def event(self, name: str, message: str, **facts: Any) -> None:
        """Add a row to events.jsonl; `facts` are for programs."""
        row = {"event": name, "step": self.step, "time": time.time(), "message": message, **facts}
        self._write(lambda: self.events.append(row))

    def track(self) -> None:
        """Show the rows from now on, and those that there are, to whatever tracks them."""
        self._tracker = Tracker(self.path, self.config, self.event)

    def row(self, row: Row) -> None:
        """Add a row to metrics.jsonl."""
        self._write(lambda: self.metrics.append(row))
        if self._tracker:
            self._tracker.row(row)

    def sample(self, row: Row) -> None:
        """Add a row to samples.jsonl."""
        self._write(lambda: self.samples.append(row))
        if self._tracker:
            self._tracker.sample(row)

    def start_anew(self, trajectory: Mapping[str, Any]) -> None:
        """Drop all rows, and set aside a best/ that another training left here: it would pass for this one's."""
        self.go_back_to(0)
        best = checkpoint.load_or_set_aside(self.path / "best", self._set_aside)
        if best and best.facts["trajectory"] != trajectory:
            durable.set_aside(best.folder)
            self.event("set aside", "best/ is of another training")

    def go_back_to(self, step: int, known: dict[str, list[Row]] | None = None) -> None:
        """Drop the rows that a state of `step` has yet to write: its own evaluation and sample, and all later ones.

        `known`: the rows that its checkpoint keeps ("metrics", "samples"); where those in the files are others, they
        are damaged and written anew.
        """
        self.step = step
        known = known or {}

        def is_written(row: Row) -> bool:
            return bool(row["step"] <= step if row.get("kind") == "train" else row["step"] < step)

        for file, name in ((self.metrics, "metrics"), (self.samples, "samples")):
            if self._write(partial(file.keep, is_written, known.get(name))):
                self.event("restored", f"{file.path.name} was damaged: its rows are taken from the checkpoint")
        if self._tracker:
            self._tracker.redraw()

    def mend_rows(self) -> None:
        """Write metrics.jsonl and samples.jsonl again where they were changed while the training ran."""
        for file in (self.metrics, self.samples):
            if self._write(file.mend):
                self.event("rewritten", f"{file.path.name} was changed from outside at step {self.step}: written again")

    def save(self, folder: Path, state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """A checkpoint of a TrainingState's state_dict(). It never lacks the rows that led to it, and keeps them too:
        their files have no digest."""
        self.beat("saving")
        self.mend_rows()
        self.metrics.sync()
        rows = {"metrics": self.metrics.rows(), "samples": self.samples.rows()}
        rest = {key: value for key, value in state.items() if key != "weights"} | {"rows": json.dumps(rows)}
        write = partial(checkpoint.save_weights, folder, state["weights"], step=self.step, facts=facts, state=rest)
        self._write(write)
        self._saved_bytes = max(self._saved_bytes, sum(file.stat().st_size for file in folder.iterdir()))

    def save_model(self, name: str, model: nn.Module, facts: Mapping[str, Any]) -> str:
        """The weights alone, in best/ or final/; the sha256 of their file."""
        return self._write(lambda: checkpoint.save_model(self.path / name, model, step=self.step, facts=facts))

    def hold_reserve(self, at_least: int) -> None:
        """Hold room for the next checkpoint, of `at_least` so many bytes, unless it is held. Raises NoRoomError."""
        self.reserve.take(max(self._saved_bytes, at_least))

    def _write(self, write: Callable[[], Result]) -> Result:
        """write(), in the room that is held for the next checkpoint where there is no other."""
        self._heartbeat.require_folder()
        try:
            return write()
        except OSError as error:
            if not (is_no_room(error) and self.reserve.give_up()):
                raise
        return write()

    def newest(self, interval: int = 1, at_most: int | None = None) -> Checkpoint | None:
        """The newest checkpoint that verifies, as checkpoint.load_newest() finds it; bad ones are set aside."""
        return checkpoint.load_newest(self.checkpoints, self._set_aside, interval, at_most)

    @property
    def before_cool_down(self) -> Path:
        return self.checkpoints / checkpoint.BEFORE_COOL_DOWN

    def load_before_cool_down(self) -> Checkpoint | None:
        """The checkpoint from before the cool-down; None without one that verifies."""
        return checkpoint.load_or_set_aside(self.before_cool_down, self._set_aside)

    def keep_if_best(self, model: nn.Module, val_loss: float, facts: Mapping[str, Any]) -> None:
        """Keep the weights in best/ if no better ones are there, from whatever session."""
        if math.isfinite(val_loss) and val_loss < self.best_val_loss:
            self.save_model("best", model, {**facts, "val_loss": val_loss})
            self._best_val_loss = val_loss

    @property
    def best_val_loss(self) -> float:
        """Of the weights in best/; infinity without any, or where it was measured in windows of another length."""
        if self._best_val_loss is None:
            found = checkpoint.load_or_set_aside(self.path / "best", self._set_aside)
            if found and context_of(found.facts, self.config) == self.config.context:
                self._best_val_loss = float(found.facts["val_loss"])
            else:
                self._best_val_loss = math.inf
        return self._best_val_loss

    def best_step(self) -> int:
        """The step of the weights in best/; 0 without any."""
        best = self.path / "best"
        return int(checkpoint.read_manifest(best)["step"]) if best.is_dir() else 0

    def best_is_average(self) -> bool:
        """Whether best/ has the moving average of the weights."""
        best = self.path / "best"
        return best.is_dir() and bool(checkpoint.read_manifest(best)["facts"].get("averaged", False))

    def close(self) -> None:
        """Bring all rows to the disk, and hold no room any longer."""
        self.reserve.give_up()
        if self._tracker:
            self._tracker.close()
        for file in (self.metrics, self.samples, self.events):
            file.close()

    def _set_aside(self, path: Path, error: CorruptFileError) -> None:
        self.event("corrupt checkpoint", f"{path.name} is set aside: {error}")
