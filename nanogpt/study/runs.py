"""Trainings as they lie on the disk: a model's folder, or that of a whole run, of which the best model is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nanogpt import durable
from nanogpt.config import Config, load_config
from nanogpt.data.shards import MANIFEST, identity
from nanogpt.faults import UserError
from nanogpt.plots.curves import is_finite
from nanogpt.records import from_json
from nanogpt.results.training import TrainingData, TrainingOutcome
from nanogpt.training.record.metrics import Row, read_metrics, read_outcome
from nanogpt.weights.trained_folder import CONFIG, TrainedFolder

OF_AN_EVALUATION = ("step", "seconds", "bits_per_byte")  # without them a row says nothing
NEITHER = "neither a model's training folder nor checkpoints/RUN of a workspace; an export has no metrics"


@dataclass(frozen=True)
class TrainedRun:
    """One training. `name` is what a person reads; `rows` and `evaluations` are of its metrics, the latter not none."""

    name: str
    folder: Path
    config: Config
    rows: list[Row]
    evaluations: list[Row]
    outcome: TrainingOutcome | None  # None where it has not ended, or failed
    data: TrainingData | None  # None where the folder does not say

    @property
    def best(self) -> Row:
        """The evaluation with the fewest bits per byte."""
        return min(self.evaluations, key=_bits)

    @property
    def steps(self) -> int:
        return self.outcome.step if self.outcome else int(self._last["step"])

    @property
    def tokens(self) -> int:
        """That were learned from; what was seen twice counts twice."""
        if self.outcome:
            return self.outcome.tokens
        return max((int(row["tokens"]) for row in self.rows if "tokens" in row), default=0)

    @property
    def seconds(self) -> float:
        return self.outcome.seconds if self.outcome else float(self._last["seconds"])

    @property
    def _last(self) -> Row:
        return self.evaluations[-1]

    @cached_property
    def parameters(self) -> int:
        return self.outcome.parameters if self.outcome else TrainedFolder(self.folder).parameters

    def data_folder(self) -> Path | None:
        """The tokens that it learned from, where the folders stand as a run leaves them; None where they do not."""
        workspace, run = self.folder.resolve().parents[2], self.folder.resolve().parent.name
        for manifest in sorted((workspace / "data" / run).glob(f"*/{MANIFEST}")):
            try:
                if self.data is not None and identity(manifest.parent) == self.data.manifest_sha256:
                    return manifest.parent
            except (OSError, ValueError):
                continue
        return None


def trained_run(place: Path) -> TrainedRun:
    """The training at `place`, or the best one of the run at `place`. Raises UserError where there is none, or where it
    has no metrics."""
    runs = trained_runs(place)
    return min(runs, key=lambda run: _bits(run.best))


def trained_runs(place: Path) -> list[TrainedRun]:
    """The training at `place`, or all that have metrics of the run at `place`. Raises UserError where there is none."""
    if (place / CONFIG).is_file():
        found = read_training(place)
        if found is None:
            raise UserError(f"{place}: has no metrics yet; a training writes them at its first evaluation")
        return [found]
    if not place.is_dir():
        raise UserError(f"{place}: there is no such folder; expected a model's training folder or checkpoints/RUN")
    folders = sorted(folder.parent for folder in place.glob(f"*/{CONFIG}"))
    if not folders:
        raise UserError(f"{place}: is {NEITHER}")
    runs = [run for run in map(read_training, folders) if run is not None]
    if not runs:
        raise UserError(f"{place}: none of its {len(folders)} models has metrics yet")
    return runs


def read_training(folder: Path) -> TrainedRun | None:
    """The training in `folder`; None before its first evaluation. Raises UserError for settings that cannot be read."""
    rows, evaluations = read_metrics(folder)
    evaluations = [row for row in evaluations if all(is_finite(row.get(key)) for key in OF_AN_EVALUATION)]
    if not evaluations:
        return None
    name = f"{folder.resolve().parent.name}/{folder.resolve().name}"
    return TrainedRun(
        name, folder, load_config(folder / CONFIG), rows, evaluations, read_outcome(folder), _data_of(folder)
    )


def distinct_names(runs: Sequence[TrainedRun]) -> list[str]:
    """What the runs are called: their folder's name where that tells them apart, else with the folder above, else
    numbered."""
    short = [run.folder.resolve().name for run in runs]
    names = short if len(set(short)) == len(short) else [run.name for run in runs]
    return [f"{name} #{names[:place].count(name) + 1}" if names.count(name) > 1 else name
            for place, name in enumerate(names)]  # fmt: skip


def _bits(row: Row) -> float:
    return float(row["bits_per_byte"])


def _data_of(folder: Path) -> TrainingData | None:
    note, _ = durable.read_note(folder / "data.json")
    try:
        return from_json(TrainingData, note)
    except ValueError:
        return None
