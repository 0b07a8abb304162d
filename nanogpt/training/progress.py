"""Where a training stands, and what makes it this training and no other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nanogpt import durable
from nanogpt.config import LATER, Config, load_config
from nanogpt.faults import UserError
from nanogpt.records import from_json
from nanogpt.results.training import TrainingData
from nanogpt.training.update.growth import BatchGrowth, StepData, curriculum_steps, window_at
from nanogpt.training.update.loss_scale import LossScale
from nanogpt.training.update.schedule import CoolDown
from nanogpt.training.update.stability import Stability

# Settings that leave the weights alone: how often something is written, and how the effective batch is split.
NOT_THE_TRAJECTORY = {
    "max_seconds",
    "log_interval",
    "sample_interval",
    "sample_temperatures",
    "checkpoint_interval",
    "checkpoint_minutes",
    "keep_checkpoints",
    "batch_size",
    "gradient_accumulation",
}
OF_DATA = ("mixture", "cross_documents", "token_dropout", "span_corruption")  # what a training decides of its data
MAY_GROW = {"training.max_iters"}
SHA256_LENGTH, DIGEST_SHOWN = 64, 12  # characters of a sha256 that a person is shown


@dataclass
class Progress:
    """All numbers that the next step depends on; with weights, optimizer and generators, the whole state."""

    step: int = 0
    cursor: int = 0  # index of the next sample: how many were seen, those of skipped and rewound steps too
    seconds: float = 0.0  # of training so far, evaluations included, over all sessions
    cool_down: CoolDown | None = None
    max_seconds: float | None = None  # the clock under which the cool-down began
    best_val_loss: float | None = None
    best_step: int = 0
    evaluations_without_gain: int = 0
    rewinds: int = 0
    learning_rate_scale: float = 1.0
    stability: Stability = field(default_factory=Stability)
    loss_scale: LossScale = field(default_factory=LossScale)  # used in float16 only
    growth: BatchGrowth | None = None  # None: each step has the whole batch
    curriculum_steps: int = 0

    @classmethod
    def at_start(cls, config: Config) -> Progress:
        """Before the first step."""
        training = config.training
        growth = BatchGrowth(training.initial_batch, training.sequences_per_step) if training.initial_batch else None
        return cls(growth=growth, curriculum_steps=curriculum_steps(training))

    def batch(self, config: Config) -> int:
        """Sequences in the next step."""
        return self.growth.size if self.growth else config.training.sequences_per_step

    def next_step(self, config: Config) -> StepData:
        """What the next step sees."""
        first, last = config.training.initial_block_size, config.model.block_size
        window = window_at(self.step, first, last, self.curriculum_steps)
        return StepData(self.cursor, self.batch(config), min(window, config.context))

    def state_dict(self) -> dict[str, Any]:
        """Numbers, lists and dictionaries only."""
        parts = {
            "cool_down": asdict(self.cool_down) if self.cool_down else None,
            "stability": self.stability.state_dict(),
            "loss_scale": asdict(self.loss_scale),
            "growth": asdict(self.growth) if self.growth else None,
        }
        return {**self.__dict__, **parts}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Progress:
        """What state_dict() gave; what an older checkpoint lacks is as it is without the settings behind it."""
        parts = {
            "cool_down": CoolDown(**state["cool_down"]) if state["cool_down"] else None,
            "stability": Stability.from_state_dict(state["stability"]),
            "loss_scale": LossScale(**state.get("loss_scale", {})),
            "growth": BatchGrowth(**state["growth"]) if state.get("growth") else None,
        }
        return cls(**{**state, **parts})


def trajectory(config: Config, data_sha256: str) -> dict[str, Any]:
    """Everything that decides the weights, by dotted key. How they are computed (device, precision, threads) may
    change between sessions, and that is recorded as an event; these may not. Raises UserError when the weights of
    training.init_from cannot be read: their digest counts, not where they are."""
    settings = config.training
    training = {
        f"training.{key}": value for key, value in settings.model_dump().items() if key not in NOT_THE_TRAJECTORY
    }
    if not settings.early_stopping_patience:
        del training["training.eval_interval"]  # decides when to stop, and nothing else
    if settings.initial_block_size is None:
        del training["training.curriculum_fraction"]
    if not settings.lora_rank:
        del training["training.lora_alpha"]
    if settings.init_from is not None:
        from nanogpt.weights.folders import digest_of  # most trainings start from scratch

        training["training.init_from"] = digest_of(settings.init_from)
    training = {key: value for key, value in training.items() if key not in LATER or value != LATER[key]}
    data = {f"data.{key}": value for key, value in _of_data(config).items() if value != _of_data(Config())[key]}
    model = {f"model.{key}": value for key, value in config.model.model_dump().items() if key != "preset"}
    return {**model, **training, **data, "effective batch": settings.sequences_per_step, "data": data_sha256}


def _of_data(config: Config) -> dict[str, Any]:
    return config.data.model_dump(include=set(OF_DATA))


def check_same_training(before: Mapping[str, Any], now: Mapping[str, Any], schedule: str, where: str) -> None:
    """Raise UserError, naming each differing key, when a checkpoint belongs to another training."""
    if changes := _changes(before, now, schedule):
        raise UserError(f"{where}: was trained with other settings ({changes}); choose another folder or move it away")


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], schedule: str) -> str:
    """Each key in which two trainings differ, with what it was and is; "" for the same training.

    More steps under WSD are the same training: it continues from before the cool-down. A setting that one side does not
    know was made later, or decides nothing there: it counts as having its default.
    """
    defaults = trajectory(Config(), "") | LATER | {f"data.{key}": value for key, value in _of_data(Config()).items()}
    before, now = {**defaults, **before}, {**defaults, **now}
    differing = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    if schedule == "wsd":
        differing = [key for key in differing if not (key in MAY_GROW and now[key] > before[key])]
    return ", ".join(f"{key} {_shown(before.get(key))} -> {_shown(now.get(key))}" for key in differing)


def other_settings(folder: Path, config: Config, data: Path, undecided: Iterable[str] = ()) -> str:
    """In what `folder` holds a training with other settings than `config`, or of other data than that in `data`; "" for
    the same training or none.

    More steps, or more time, are the same training: it continues from before the cool-down. The size of the vocabulary
    follows from the data, and what is `undecided` (dotted keys) is taken to become what it was. Raises OSError or
    ValueError where `data` has no manifest.
    """
    try:
        before = load_config(folder / "config.yaml")
    except (UserError, OSError):
        return ""
    note, _ = durable.read_note(folder / "data.json")
    try:
        trained_on = from_json(TrainingData, note).manifest_sha256
    except ValueError:  # damaged: no reason to train again
        return ""
    from nanogpt.data import shards  # numpy: 50 ms of a start

    as_before = {key: before.value(key) for key in ("model.vocab_size", *undecided)}
    data_now = shards.identity(data)
    try:
        then, now = trajectory(before, trained_on), trajectory(config.with_changes(as_before), data_now)
    except UserError as error:
        return str(error)
    return _changes(then, now, config.training.schedule)


def _shown(value: object) -> str:
    """A setting as a person reads it; of a digest, the beginning."""
    return value[:DIGEST_SHOWN] if isinstance(value, str) and len(value) == SHA256_LENGTH else str(value)
