"""What a trainer shows of itself, passed on as it trains: to terminal and page, the loss plot, the clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from flows.context.budget_clock import BudgetClock
from flows.context.journal import Journal
from flows.display.protocol import TrainingProgress
from flows.supervision.model_files import EventReader, ModelFiles
from flows.supervision.remedies import MENDED_BY_THE_TRAINER
from nanogpt.results.training import Heartbeat, TrainerEvent

PLOT_SECONDS = 120.0  # between redrawings of the loss plot, which cost 0.07 s of a core; the figures are live besides
CLOCK_SECONDS = 5.0  # between notes of the time spent: what a kill makes the budget forget


class TrainerWatch:
    """One attempt at a model: passes heartbeats on, each listener at its own pace, and counts what a failure costs.

    `mended` gets the events of what the trainer mended, `trains` is called at each sign that steps are made, `place`
    is this model's place among the models of the plan, and the seconds planned for those after it.
    """

    def __init__(
        self,
        name: str,
        files: ModelFiles,
        journal: Journal,
        clock: BudgetClock,
        pulse: Callable[[], None],
        mended: Callable[[TrainerEvent], None],
        trains: Callable[[], None],
        place: tuple[int, int, float],
    ):
        self._name, self._files, self._journal, self._clock, self._pulse = name, files, journal, clock, pulse
        self._mended, self._trains, self._place = mended, trains, place
        self._events = EventReader(files)
        self.step = 0
        self._began, self._first_step = time.monotonic(), files.saved_step()
        self._drawn = self._noted = self._began

    def __call__(self, heartbeat: Heartbeat) -> None:
        self.step = heartbeat.step
        now = time.monotonic()
        self._journal.display.progress(self._progress(heartbeat))
        self._pulse()
        if heartbeat.activity == "training":
            self._trains()
        self.report_events()
        if now - self._noted >= CLOCK_SECONDS:
            self._noted = now
            self._clock.save()
        if now - self._drawn >= PLOT_SECONDS:
            self._drawn = now
            self._redraw()

    def report_events(self) -> None:
        """Pass on what the trainer has mended since the last look."""
        for event in self._events.new():
            is_usual = event.message.startswith("overflow")  # float16 finding its loss scale
            if event.event in MENDED_BY_THE_TRAINER and not is_usual:
                self._mended(event)

    def steps_lost(self) -> int:
        """Steps done since the newest checkpoint."""
        return max(0, self._steps_reached() - self._files.saved_step())

    def saved_steps(self) -> int:
        """Steps of this attempt that are kept in a checkpoint."""
        return max(0, self._files.saved_step() - self._first_step)

    def lost_seconds(self) -> float:
        """The time of this attempt that led to nothing that is kept, its start and what was done after it included."""
        taken, done = time.monotonic() - self._began, self._steps_reached() - self._first_step
        return taken - taken * min(1.0, self.saved_steps() / done) if done > 0 else taken

    def _steps_reached(self) -> int:
        return max(self.step, self._files.last_logged_step())

    def _progress(self, heartbeat: Heartbeat) -> TrainingProgress:
        position, models, seconds_after = self._place
        return TrainingProgress(
            model=self._name,
            step=heartbeat.step,
            steps=heartbeat.expected_steps,
            is_estimate=heartbeat.is_estimate,
            position=position,
            models=models,
            loss=heartbeat.loss,
            val_loss=heartbeat.val_loss,
            tokens_per_second=heartbeat.tokens_per_second,
            seconds_left=heartbeat.eta_seconds,
            seconds_after=seconds_after,
            memory_bytes=heartbeat.memory_bytes,
            activity=heartbeat.activity,
        )

    def _redraw(self) -> None:
        try:
            draw_loss(self._files.folder)
            plot = self._files.folder / "loss.svg"
            self._journal.display.image(f"loss-{self._name}", plot, f"{self._name}: the loss")
        except Exception as error:  # a plot is never worth a training
            self._journal.log(f"no loss plot of {self._name}: {type(error).__name__}: {error}", "warning")


def load_drawing() -> None:
    """Load what draws on a thread while a trainer starts, which takes one core: the end of the first training would
    wait for it, 0.5 to 0.9 s."""

    def load() -> None:
        with suppress(Exception):  # whoever draws says why it cannot be loaded
            import_module("nanogpt.plots.training")

    threading.Thread(target=load, daemon=True).start()


def draw_loss(folder: Path) -> None:
    from nanogpt.plots.training import loss_plot  # matplotlib: 0.5 s, only where something is drawn

    loss_plot(folder, folder / "loss.svg")
