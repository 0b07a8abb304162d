"""What is shown of a training or a run, as records: figures, curves, samples, and what has happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nanogpt.units import byte_size, clock, duration, step_of

ModelState = Literal["waiting", "training", "silent", "finished", "stopped", "failed"]
RunState = Literal["running", "interrupted", "stopped", "finished", "failed", "partial"]
PhaseState = Literal["waiting", "running", "done", "failed"]
ENDED: tuple[ModelState, ...] = ("finished", "stopped", "failed")


@dataclass(frozen=True)
class Series:
    """One curve: each value with its step and the seconds of training until then."""

    steps: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Sample:
    """What the model wrote at a step."""

    step: int
    temperature: float
    text: str


@dataclass(frozen=True)
class Happening:
    """An event of a trainer or a remedy of the run. time: seconds since the epoch."""

    time: float
    where: str
    what: str
    is_trouble: bool = False


@dataclass(frozen=True)
class ModelView:
    """A model in training, or one that is to come. Figures are None until they are known."""

    name: str
    state: ModelState
    note: str = ""  # what it does, why it ended, or what went wrong
    step: int = 0
    expected_steps: int = 0  # how many it will make in all; 0 while nobody knows
    is_estimate: bool = False  # expected_steps, of a training that its clock ends
    parameters: int | None = None
    seconds: float = 0.0  # of training
    loss: float | None = None
    val_loss: float | None = None
    best_val_loss: float | None = None
    best_step: int | None = None
    bits_per_byte: float | None = None
    tokens_per_second: float | None = None
    memory_bytes: int | None = None
    eta_seconds: float | None = None
    silent_seconds: float | None = None  # since its last sign of life
    train: Series = field(default_factory=Series)
    smooth: Series = field(default_factory=Series)
    validation: Series = field(default_factory=Series)
    speed: Series = field(default_factory=Series)
    memory: Series = field(default_factory=Series)
    samples: list[Sample] = field(default_factory=list)  # the latest last

    @property
    def is_over(self) -> bool:
        return self.state in ENDED

    @property
    def share(self) -> float:
        """How much of the training is done, 0 to 1."""
        if self.state == "finished":
            return 1.0
        return min(1.0, self.step / self.expected_steps) if self.expected_steps else 0.0

    @property
    def step_of(self) -> str:
        """'59/198', or '59 of about 198'."""
        return step_of(self.step, self.expected_steps, self.is_estimate)


@dataclass(frozen=True)
class PhaseView:
    number: int
    title: str
    state: PhaseState
    seconds: float = 0.0
    planned_seconds: float | None = None
    trouble: str = ""  # of one that failed or was blocked: "failed: no space left on device"
    ended_at: float = 0.0  # of that one; seconds since the epoch


@dataclass(frozen=True)
class RunView:
    """A run of the autopilot around its models."""

    name: str
    state: RunState
    phases: list[PhaseView]
    budget_seconds: float | None = None
    spent_seconds: float | None = None
    eta_seconds: float | None = None
    prefect_url: str | None = None

    @property
    def is_over(self) -> bool:
        return self.state != "running"


@dataclass(frozen=True)
class View:
    """Everything that is shown, at one moment."""

    title: str
    models: list[ModelView]
    happenings: list[Happening]  # the latest last
    run: RunView | None = None
    time: float = 0.0
    is_over: bool = False

    @property
    def is_silent(self) -> bool:
        """Whether nothing works and nothing has ended: a process was killed, or the machine sleeps."""
        shows_life = any(model.state == "training" for model in self.models)
        return not self.is_over and not shows_life and (self.run is None or self.run.is_over)

    @property
    def shown_model(self) -> ModelView | None:
        """The model that trains, or else the last one that has begun."""
        begun = [model for model in self.models if model.state != "waiting"]
        return next((model for model in begun if model.state in ("training", "silent")), begun[-1] if begun else None)


def state_of(model: ModelView) -> str:
    """The state of a model in a word or a few."""
    if model.state == "silent":
        return f"silent for {duration(model.silent_seconds)}"
    if model.state == "training" and model.note not in ("", "training"):
        return model.note
    if model.state == "failed" and model.note:
        return f"failed: {model.note}"
    return "to come" if model.state == "waiting" else model.state


def headline(view: View) -> str:
    """What is watched and how far it is, in one line."""
    parts = [view.title]
    run, model = view.run, view.shown_model
    if run is not None:
        parts.append(run.state)
        if run.spent_seconds is not None and run.budget_seconds is not None:
            parts.append(f"{clock(run.spent_seconds)} of {clock(run.budget_seconds)}")
        if run.eta_seconds is not None and not run.is_over:
            parts.append(f"about {clock(run.eta_seconds)} left")
    elif model is not None:
        parts.append(state_of(model))
    else:
        parts.append("nothing has begun yet")
    return "  ".join(parts)


def in_a_line(model: ModelView) -> str:
    """A model in one line of a log."""
    parts = [model.name, state_of(model), f"step {model.step_of}"]
    if model.loss is not None:
        parts.append(f"loss {model.loss:.3f}")
    if model.val_loss is not None:
        parts.append(f"val {model.val_loss:.4f}")
    if model.tokens_per_second is not None and not model.is_over:
        parts.append(f"{model.tokens_per_second:,.0f} tokens/s")
    if model.eta_seconds is not None and not model.is_over:
        parts.append(f"{clock(model.eta_seconds)} left")
    if model.memory_bytes:
        parts.append(byte_size(model.memory_bytes))
    return "  ".join(parts)
