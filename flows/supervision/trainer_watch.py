"""What a trainer shows of itself, passed on as it trains: to the terminal, the task's page, the loss plot, the clock.

Of the flows only treatment.py watches; phases/training.py draws the last plot.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flows.display.protocol import TrainingProgress
from flows.runner.interruption import saved_step
from flows.runner.run import Run
from flows.supervision import remedies
from nanogpt.config import Config
from nanogpt.training.record.metrics import read_rows

PLOT_SECONDS = 60.0  # between redrawings of the loss plot; one takes 0.11 s of a core, which the trainer may want
CLOCK_SECONDS = 5.0  # between notes of the time spent: what a kill makes the budget forget


class Progress:
    """Passes heartbeats on to the terminal, the task's page and the loss plot, each at its own pace.

    `mended` gets the events of what the trainer mended, `trains` is told of each sign that steps are made.
    """

    def __init__(
        self, run: Run, config: Config, folder: Path, mended: Callable[[dict], None] = lambda event: None,
        trains: Callable[[], None] = lambda: None,
    ):  # fmt: skip
        self.run, self.config, self.folder, self.mended, self.trains = run, config, folder, mended, trains
        self.heartbeat: dict = {}
        ladder = run.ledger.facts("configuration.plan").get("ladder", [])
        self.names = [rung["name"] for rung in ladder]
        place = self.names.index(config.name) if config.name in self.names else len(ladder)
        self.seconds_after = sum(rung["seconds"] for rung in ladder[place + 1 :])
        self.began, self.first_step = time.monotonic(), saved_step(folder)
        self.drawn = self.noted = self.began
        self.events_read = _size(folder / "events.jsonl")

    def __call__(self, heartbeat: dict) -> None:
        self.heartbeat = heartbeat
        now = time.monotonic()
        self.run.display.progress(self._progress())
        self.run.pulse()
        if heartbeat.get("activity") == "training":
            self.trains()
        self.tell_events()
        if now - self.noted >= CLOCK_SECONDS:
            self.noted = now
            self.run.clock.save()
        if now - self.drawn >= PLOT_SECONDS:
            self.drawn = now
            self._redraw()

    def _progress(self) -> TrainingProgress:
        beat, name = self.heartbeat, self.config.name
        return TrainingProgress(
            name, self.step, beat.get("max_iters", 1), position=self.names.index(name) + 1 if name in self.names else 1,
            models=max(1, len(self.names)), loss=beat.get("loss"), val_loss=beat.get("val_loss"),
            tokens_per_second=beat.get("tokens_per_second"), seconds_left=beat.get("eta_seconds"),
            seconds_after=self.seconds_after,
            memory_bytes=beat.get("memory_bytes"), activity=beat.get("activity") or "training",
        )  # fmt: skip

    def tell_events(self) -> None:
        """Pass on what the trainer has mended since the last look."""
        for event in self._new_events():
            told = remedies.MENDED_BY_THE_TRAINER.get(event.get("event"))
            is_usual = event.get("message", "").startswith("overflow")  # float16 finding its loss scale
            if told and not is_usual:
                self.mended(event)

    def _new_events(self) -> Iterator[dict]:
        path = self.folder / "events.jsonl"
        if _size(path) <= self.events_read:
            return
        with open(path, "rb") as file:
            file.seek(self.events_read)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self.events_read += len(whole)
        for line in whole.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # cut by a crash
            if isinstance(row, dict):
                yield row

    def _redraw(self) -> None:
        try:
            draw_loss(self.folder)
            name = self.config.name
            self.run.display.image(f"loss-{name}", self.folder / "loss.svg", f"{name}: the loss")
        except Exception as error:  # a plot is never worth a training
            self.run.log.write(f"no loss plot of {self.config.name}: {type(error).__name__}: {error}", "warning")

    @property
    def step(self) -> int:
        return self.heartbeat.get("step", 0)

    def steps_reached(self) -> int:
        """The last step that is known to have been done; the heartbeat, once a second, is behind quick steps."""
        rows = [row["step"] for row in read_rows(self.folder / "metrics.jsonl") if row.get("kind") == "train"]
        return max(self.step, *rows[-1:], 0)

    def steps_lost(self) -> int:
        """Steps done since the newest checkpoint."""
        return max(0, self.steps_reached() - saved_step(self.folder))

    def saved_steps(self) -> int:
        """Steps of this attempt that are kept in a checkpoint."""
        return max(0, saved_step(self.folder) - self.first_step)

    def lost_seconds(self) -> float:
        """The time of this attempt that led to nothing that is kept, its start and what was done after it included."""
        taken, done = time.monotonic() - self.began, self.steps_reached() - self.first_step
        return taken - taken * min(1.0, self.saved_steps() / done) if done > 0 else taken


def draw_loss(folder: Path) -> None:
    from nanogpt import plots  # matplotlib: 0.5 s, only where something is drawn

    plots.loss_plot(folder, folder / "loss.svg")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
