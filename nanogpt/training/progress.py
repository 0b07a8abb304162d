"""Where a training stands, and what makes it this training and no other."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from nanogpt.config import Config
from nanogpt.faults import UserError
from nanogpt.training.schedule import CoolDown
from nanogpt.training.stability import Stability

# Settings that leave the weights alone: how often something is written, and how the effective batch is split.
NOT_THE_TRAJECTORY = {
    "max_seconds", "log_interval", "sample_interval", "checkpoint_interval", "keep_checkpoints",
    "batch_size", "gradient_accumulation",
}  # fmt: skip
MAY_GROW = {"training.max_iters"}


@dataclass
class Progress:
    """All numbers that the next step depends on; with weights, optimizer and generators, the whole state."""

    step: int = 0
    cursor: int = 0  # index of the next sample
    seconds: float = 0.0  # of training so far, evaluations included, over all sessions
    cool_down: CoolDown | None = None
    max_seconds: float | None = None  # the clock under which the cool-down began
    best_val_loss: float | None = None
    best_step: int = 0
    evaluations_without_gain: int = 0
    rewinds: int = 0
    learning_rate_scale: float = 1.0
    stability: Stability = field(default_factory=Stability)

    def state_dict(self) -> dict:
        """Numbers, lists and dictionaries only."""
        cool_down = asdict(self.cool_down) if self.cool_down else None
        return {**self.__dict__, "cool_down": cool_down, "stability": self.stability.state_dict()}

    @classmethod
    def from_state_dict(cls, state: dict) -> Progress:
        """What state_dict() gave."""
        cool_down = CoolDown(**state["cool_down"]) if state["cool_down"] else None
        stability = Stability.from_state_dict(state["stability"])
        return cls(**{**state, "cool_down": cool_down, "stability": stability})


def trajectory(config: Config, data_sha256: str) -> dict:
    """Everything that decides the weights, by dotted key. How they are computed (device, precision, threads) may
    change between sessions, and that is recorded as an event; these may not."""
    training = {
        f"training.{key}": value
        for key, value in config.training.model_dump().items()
        if key not in NOT_THE_TRAJECTORY
    }
    if not config.training.early_stopping_patience:
        del training["training.eval_interval"]  # decides when to stop, and nothing else
    effective_batch = config.training.batch_size * config.training.gradient_accumulation
    model = {f"model.{key}": value for key, value in config.model.model_dump().items() if key != "preset"}
    return {**model, **training, "effective batch": effective_batch, "data": data_sha256}


def check_same_training(before: dict, now: dict, schedule: str, where: str) -> None:
    """Raise UserError, naming each differing key, when a checkpoint belongs to another training.

    More steps under WSD are the same training: it goes on from before the cool-down.
    """
    differing = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if schedule == "wsd":
        differing = [key for key in differing if not (key in MAY_GROW and now[key] > before[key])]
    if differing:
        told = ", ".join(f"{key} {before.get(key)} -> {now.get(key)}" for key in differing)
        raise UserError(f"{where}: was trained with other settings ({told}); choose another folder or move it away")
