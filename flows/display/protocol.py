"""What the rest of the project knows of a display, and the small types that cross the wall.

Whatever a display does, each function given to it runs exactly once and its result or exception reaches the caller.
An exception with an attribute `shown_as` ("Blocked") is shown under that name instead of Failed.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from nanogpt.units import byte_size, clock, number, step_of

T = TypeVar("T")
Level = Literal["info", "warning", "error"]
Log = Callable[[str], None]
Row = Mapping[str, object]  # of a table: column -> what stands there


@dataclass(frozen=True)
class Opening:
    """One start of a run: how its page is called, by which tags it is found, and what it was asked for."""

    run: str  # the name that all starts of the run share
    name: str = ""  # of this start; without one, that of the run
    tags: Sequence[str] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)  # as JSON has them
    cancel: Callable[[], None] = lambda: None  # called once, in another thread, when a person cancels it on its page


@dataclass(frozen=True)
class TrainingProgress:
    """How far the training of a model has come. What is not known yet is None."""

    model: str
    step: int
    steps: int  # that it will make in all; 0 while nobody knows
    position: int = 1  # of this model among `models`, from 1
    models: int = 1
    loss: float | None = None
    val_loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None  # of this model
    seconds_after: float = 0.0  # planned for the models after this one
    memory_bytes: int | None = None
    activity: str = "training"
    is_estimate: bool = False  # `steps`, of a training that its clock ends

    @property
    def fraction(self) -> float:
        return min(1.0, max(0.0, self.step / self.steps)) if self.steps else 0.0

    def line(self) -> str:
        """Everything in one line."""
        return "  ".join(
            filter(None, [self.where(), self.losses(), self.left(), self.speed(), self.memory(), self.doing()])
        )

    def where(self) -> str:
        which = f"model {self.position} of {self.models}  " if self.models > 1 else ""
        return f"{which}{self.model}  {self.how_far()}"

    def how_far(self) -> str:
        return f"step {step_of(self.step, self.steps, self.is_estimate)}"

    def losses(self) -> str:
        loss = "" if self.loss is None else f"loss {self.loss:.3f}"
        return "  ".join(filter(None, [loss, "" if self.val_loss is None else f"val {self.val_loss:.4f}"]))

    def left(self) -> str:
        return "" if self.seconds_left is None else f"{clock(self.seconds_left)} left"

    def speed(self) -> str:
        return "" if self.tokens_per_second is None else f"{number(self.tokens_per_second, 0)} tokens/s"

    def memory(self) -> str:
        return byte_size(self.memory_bytes) if self.memory_bytes else ""

    def doing(self) -> str:
        """What the trainer does besides training: "saving", "evaluating"."""
        return "" if self.activity == "training" else self.activity


class BackgroundStep(Future[T]):
    """The outcome of a step that runs in a thread; knows whether anybody asked for it."""

    asked = False

    def result(self, timeout: float | None = None) -> T:
        self.asked = True
        return super().result(timeout)


@dataclass(frozen=True)
class LeftOut:
    """What a step returns that did not do its work, and why not."""

    reason: str


class Display(Protocol):
    """What phases see. Titles are shown to people; a key names what is shown again and again."""

    @property
    def url(self) -> str | None:
        """The page of this run, None without a server."""

    def flow(self, function: Callable[[], T], opening: Opening) -> T:
        """Run `function` as the flow and return what it returns."""

    def settle(self) -> None:
        """Wait until pages that are being opened take no processor time, for what is to be measured next."""

    def phase(self, label: str, function: Callable[[], T]) -> T:
        """Run `function` as the phase `label`, "1 Environment"; one whose steps are all kept is shown as Cached."""

    def step(self, title: str, function: Callable[[], T]) -> T:
        """Run `function` as a step of the phase; one that returns LeftOut is shown as left out."""

    def step_kept(self, title: str, reason: str) -> None:
        """A step whose earlier result is kept, and why."""

    def start_in_background(self, title: str, function: Callable[[], T]) -> BackgroundStep[T]:
        """Run `function` as a step, in a thread. The phase or flow around it waits for it."""

    def forecast(self, planned: Mapping[str, float]) -> None:
        """How many seconds each phase is planned to take, by its label: for the time left of the whole run."""

    def progress(self, progress: TrainingProgress) -> None:
        """Show how far a training has come."""

    def markdown(self, key: str, text: str, description: str = "") -> None:
        """Show a Markdown document."""

    def table(self, key: str, rows: Sequence[Row], description: str = "") -> None:
        """Show rows under the columns that their keys name."""

    def image(self, key: str, file: Path, description: str = "") -> None:
        """Show an image, SVG or PNG; one with the same key takes its place."""

    def note(self, message: str, level: Level = "info") -> None:
        """Show a message, in the log of the current step, phase or flow too."""


def one_line(words: object) -> str:
    """A text or an exception in one line of bounded length. Other people's exceptions are named."""
    text = " ".join(str(words).split())[:500]
    if isinstance(words, KeyboardInterrupt):
        return "stopped by a person"
    speaks_for_itself = type(words).__module__.startswith(("flows.", "nanogpt.")) or hasattr(words, "shown_as")
    if not isinstance(words, BaseException) or (speaks_for_itself and text):
        return text
    return f"{type(words).__name__}: {text}" if text else type(words).__name__
