"""The folder in which a model is trained, as the orchestrator sees it: what it reads there, and what it adds.

The trainer writes (nanogpt.training.record); its files are the contract between the two processes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanogpt import durable
from nanogpt.records import from_json
from nanogpt.results.training import Heartbeat, TrainerEvent, TrainingFailure, TrainingOutcome
from nanogpt.training.record.metrics import read_rows


@dataclass(frozen=True)
class CheckpointId:
    """A checkpoint, and what no later one of its name has."""

    folder: Path
    inode: int
    modified_ns: int


class ModelFiles:
    """A model's folder. Whatever of it is missing or torn reads as not there yet."""

    def __init__(self, folder: Path):
        self.folder = folder

    # -- what the trainer says

    def heartbeat(self) -> Heartbeat | None:
        """The latest sign of life."""
        try:
            return from_json(Heartbeat, durable.read_json(self.folder / "heartbeat"))
        except (OSError, ValueError):
            return None

    def outcome(self) -> TrainingOutcome | TrainingFailure | None:
        """How the latest attempt ended; None while it has not."""
        try:
            value = durable.read_json(self.folder / "outcome.json")
            if isinstance(value, dict) and value.get("status") == "failed":
                return from_json(TrainingFailure, value)
            return from_json(TrainingOutcome, value)
        except (OSError, ValueError, RecursionError):
            return None

    def forget_outcome(self) -> None:
        """An attempt begins: an earlier one's outcome is not its own."""
        durable.remove(self.folder / "outcome.json")

    def last_logged_step(self) -> int:
        """The last step in metrics.jsonl; the heartbeat, once a second, is behind quick steps."""
        rows = [row["step"] for row in read_rows(self.folder / "metrics.jsonl") if row.get("kind") == "train"]
        return int(rows[-1]) if rows else 0

    # -- checkpoints

    def saved_step(self) -> int:
        """The step of the newest checkpoint; 0 without any."""
        steps = [path.name[5:] for path in (self.folder / "checkpoints").glob("step-*")]
        return max((int(step) for step in steps if step.isdigit()), default=0)

    def saved_seconds(self) -> float:
        """Training time that the newest checkpoint has, by the latest heartbeat's pace; 0 before the first."""
        beat = self.heartbeat()
        return beat.seconds * min(1.0, self.saved_step() / beat.step) if beat and beat.step else 0.0

    def trained_seconds(self) -> float:
        """Training time up to the latest heartbeat."""
        beat = self.heartbeat()
        return beat.seconds if beat else 0.0

    def lost(self) -> tuple[int, float]:
        """(steps, seconds) that an interrupted training has to do again."""
        beat = self.heartbeat()
        if beat is None or not beat.step:
            return 0, 0.0
        steps = max(0, beat.step - self.saved_step())
        return steps, beat.seconds * steps / beat.step

    def settled_micro_batch(self, configured: int) -> int:
        """What an earlier session settled on, perhaps after it ran out of memory; else as configured."""
        for facts in self._facts_of_checkpoints():
            with suppress(ValueError, KeyError, TypeError):
                return int(min(configured, facts["micro_batch"])) if facts["batch_size"] == configured else configured
        return configured

    def goes_on_by_torch(self) -> bool:
        """Whether a training goes on here that has begun on a CPU with torch's operators between the matrix products:
        it is slower than a new one, and takes more memory. A checkpoint from before the kernels says nothing of them.
        """
        newest = next(self._facts_of_checkpoints(), {})
        return newest.get("device") == "cpu" and newest.get("kernels", "torch") == "torch"

    def _facts_of_checkpoints(self) -> Iterator[dict[str, Any]]:
        """By the manifests that can be read, the newest first: whether a checkpoint can be used is the trainer's to
        judge."""
        for manifest in sorted((self.folder / "checkpoints").glob("step-*/manifest.json"), reverse=True):
            with suppress(OSError, ValueError, KeyError, TypeError):
                yield dict(durable.read_json(manifest)["facts"])

    def checkpoints(self) -> frozenset[CheckpointId]:
        """Every checkpoint, best/ included."""
        found = set()
        for manifest in [*self.folder.glob("checkpoints/*/manifest.json"), self.folder / "best/manifest.json"]:
            try:
                facts = manifest.stat()
            except OSError:
                continue  # replaced or removed just now
            found.add(CheckpointId(manifest.parent, facts.st_ino, facts.st_mtime_ns))
        return frozenset(found)

    def set_aside_all_but(self, trusted: frozenset[CheckpointId]) -> None:
        """Rename every checkpoint that is not in `trusted` to *.bad: the device's numbers were wrong when it was
        written, whatever its digests say."""
        for found in self.checkpoints() - trusted:
            if not found.folder.name.endswith(durable.DAMAGED):
                durable.set_aside(found.folder)

    def has_best(self) -> bool:
        return (self.folder / "best").is_dir()

    def best_weights(self) -> str | None:
        """sha256 of the file of the best weights, as it was written."""
        try:
            manifest = durable.read_json(self.folder / "best" / "manifest.json")
            return str(manifest["files"]["model.safetensors"]["sha256"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    # -- events

    def append_event(self, event: TrainerEvent) -> None:
        """A row of events.jsonl, between two trainers, which write the others. Before the first there is no folder."""
        if not self.folder.is_dir():
            return
        row = {key: value for key, value in asdict(event).items() if value not in (None, 0, 0.0)}
        with open(durable.open_to_append(self.folder / "events.jsonl"), "a", encoding="ascii") as file:
            file.write(json.dumps({"step": event.step, **row}) + "\n")  # escapes also what of a path is not UTF-8


class EventReader:
    """The events that are added to a model's folder from now on."""

    def __init__(self, files: ModelFiles):
        self._path = files.folder / "events.jsonl"
        self._read_to = self._size()

    def new(self) -> Iterator[TrainerEvent]:
        if self._size() <= self._read_to:
            return
        try:
            with durable.open_plain(self._path) as file:
                file.seek(self._read_to)
                lines = file.read()
        except OSError:  # removed, or no file any more: the trainer makes it anew
            return
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            try:
                yield from_json(TrainerEvent, json.loads(line))
            except (ValueError, RecursionError):
                continue  # cut by a crash

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0
