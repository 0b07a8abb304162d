"""Reads what a training or a run has written so far; asked again and again, while they write."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.plots.curves import column, smoothed, thinned
from nanogpt.records import from_json
from nanogpt.results.training import Heartbeat, TrainerEvent, TrainingFailure, TrainingOutcome
from nanogpt.training.record.metrics import Row, as_event, read_rows
from nanogpt.watch.run_files import PlanNote, RunFiles, SessionNote, sound
from nanogpt.watch.views import Happening, ModelState, ModelView, PhaseView, RunView, Sample, Series, View

SIGNS = ("heartbeat", "metrics.jsonl", "outcome.json")  # of a folder in which a model is or was trained
SILENT_SECONDS = 60.0  # without a heartbeat: its process is stuck or gone
SAMPLES_SHOWN, HAPPENINGS_SHOWN = 12, 60
ORDINARY = {"started", "resumed", "extended", "warmed again", "initial weights", "batch", "parity", "cool-down"}
ORDINARY |= {"stopped", "finished"}
NOTED_BY_THE_RUN = "remedy"  # such an event is a remedy of the run too, with more words

LATEST = 1e11  # seconds since the epoch, in a few thousand years: what is later, a calendar cannot show


class Watched:
    """One training (a folder that a trainer writes to) or one run (checkpoints/RUN of a workspace)."""

    def __init__(self, folder: Path):
        """Raises UserError where neither is."""
        self.folder = _named_folder(folder)
        self._rows: dict[Path, tuple[tuple[int, int], list[Row]]] = {}
        self._lock = threading.Lock()
        self.is_training = _is_training(self.folder)
        self._run = None if self.is_training else _run_files(self.folder)
        if not self.is_training and self._run is None and not self._trainings():
            raise UserError(_nothing_in(folder))

    def view(self) -> View:
        """How it is now."""
        with self._lock:
            return self._view_of_training() if self.is_training else self._view_of_run()

    def _view_of_training(self) -> View:
        model = self._model(self.folder)
        happenings = _happenings(self._events(self.folder), "")
        return View(model.name, [model], happenings[-HAPPENINGS_SHOWN:], None, time.time(), model.is_over)

    def _view_of_run(self) -> View:
        session, plan = (self._run.session(), self._run.plan()) if self._run else (None, PlanNote())
        trainings = self._trainings()
        models = [self._model(folder) for folder in trainings]
        begun = {model.name for model in models}
        planned = {model.name: model for model in plan.ladder}
        models = [
            replace(model, parameters=model.parameters or planned[model.name].parameters)
            if model.name in planned
            else model
            for model in models
        ]
        models += [
            ModelView(
                model.name,
                "waiting",
                expected_steps=model.steps,
                is_estimate=model.steps < model.max_iters,
                parameters=model.parameters,
            )
            for model in plan.ladder
            if model.name not in begun
        ]
        happenings = self._run.remedies() if self._run else []
        for folder in trainings:
            events = [event for event in self._events(folder) if not self._run or event.event != NOTED_BY_THE_RUN]
            happenings += _happenings(events, folder.name)
        run = self._run_view(self._run, session, plan, models) if self._run and session else None
        happenings += _troubles(run.phases) if run else []
        happenings.sort(key=lambda one: one.time)
        is_over = run.is_over if run else bool(models) and all(model.is_over for model in models)
        if run and run.is_over:
            models = [model if model.state != "waiting" else replace(model, note="not trained") for model in models]
        title = f"run {self.folder.name}" if run else str(self.folder.name)
        return View(title, models, happenings[-HAPPENINGS_SHOWN:], run, time.time(), is_over)

    def _run_view(self, files: RunFiles, session: SessionNote, plan: PlanNote, models: list[ModelView]) -> RunView:
        clock, phases = files.clock(session.is_running), files.phases(session, plan)
        return RunView(
            self.folder.name,
            "interrupted" if session.state == "running" and not session.is_running else session.state,
            phases,
            clock.budget_seconds if clock else None,
            clock.spent_seconds if clock else None,
            _seconds_left(phases, models, plan) if session.is_running else None,
            session.prefect_url if session.is_running else None,
        )

    def _trainings(self) -> list[Path]:
        """The models' folders, in the order in which they began."""
        try:
            folders = [folder for folder in self.folder.iterdir() if _is_training(folder)]
        except OSError:  # the run has not made it yet
            return []
        return sorted(folders, key=lambda folder: (self._began(folder), folder.name))

    def _began(self, folder: Path) -> float:
        return next((event.time for event in self._events(folder)), float("inf"))

    def _events(self, folder: Path) -> list[TrainerEvent]:
        return [event for row in self._rows_of(folder / "events.jsonl") if (event := as_event(row))]

    def _model(self, folder: Path) -> ModelView:
        rows = self._rows_of(folder / "metrics.jsonl")
        train = [row for row in rows if row.get("kind") == "train"]
        evaluations = [row for row in rows if row.get("kind") == "eval" and isinstance(row.get("step"), int)]
        heartbeat, outcome = _heartbeat_in(folder), _outcome_in(folder)
        silent = max(0.0, time.time() - heartbeat.time) if heartbeat.time else None
        state, note = _state(heartbeat, outcome, silent)
        best = min(evaluations, key=_val_loss, default=None)
        has_best = best is not None and _val_loss(best) < float("inf")
        losses = _series(train, "loss")
        return ModelView(
            name=folder.name,
            state=state,
            note=note,
            step=heartbeat.step,
            expected_steps=heartbeat.expected_steps,
            is_estimate=heartbeat.is_estimate,
            parameters=outcome.parameters if isinstance(outcome, TrainingOutcome) else None,
            seconds=heartbeat.seconds,
            loss=heartbeat.loss,
            val_loss=heartbeat.val_loss,
            best_val_loss=best["val_loss"] if best and has_best else None,
            best_step=best["step"] if best and has_best else None,
            bits_per_byte=_number(best.get("bits_per_byte")) if best and has_best else None,
            tokens_per_second=heartbeat.tokens_per_second,
            memory_bytes=heartbeat.memory_bytes,
            eta_seconds=heartbeat.eta_seconds,
            silent_seconds=silent if state == "silent" else None,
            train=_thin(losses),
            smooth=_thin(replace(losses, values=smoothed(losses.values))),
            validation=_series(evaluations, "val_loss"),
            speed=_thin(_smooth(_series(train, "tokens_per_second"))),
            memory=_thin(_series(train, "memory_bytes")),
            samples=_samples(self._rows_of(folder / "samples.jsonl")),
        )

    def _rows_of(self, path: Path) -> list[Row]:
        """The rows of a file, read again only when it has changed."""
        try:
            status = path.stat()
        except OSError:
            return []
        version = status.st_mtime_ns, status.st_size
        if path not in self._rows or self._rows[path][0] != version:
            self._rows[path] = version, [sound(row) for row in read_rows(path)]
        return self._rows[path][1]


def _named_folder(folder: Path) -> Path:
    """`folder` as an absolute path; of a workspace, the checkpoints of the run that was started last."""
    folder = Path(os.path.abspath(os.path.expanduser(folder)))
    sessions = [path for path in folder.glob("state/*/session.json") if path.is_file()]
    if not sessions or _is_training(folder):
        return folder
    latest = max(sessions, key=lambda path: path.stat().st_mtime)
    return folder / "checkpoints" / latest.parent.name


def _is_training(folder: Path) -> bool:
    return any((folder / name).is_file() for name in SIGNS)


def _run_files(folder: Path) -> RunFiles | None:
    """Of checkpoints/RUN, what the run keeps in state/RUN."""
    files = RunFiles(folder.parent.parent / "state" / folder.name)
    return files if folder.parent.name == "checkpoints" and files.exists else None


def _nothing_in(folder: Path) -> str:
    if not folder.exists():
        return f"{folder}: there is no such folder"
    if not folder.is_dir():
        return f"{folder}: is a file; expected a training's folder, checkpoints/RUN or a workspace"
    return f"{folder}: holds no training; expected the --folder of nanogpt train, checkpoints/RUN or a workspace"


def _heartbeat_in(folder: Path) -> Heartbeat:
    """The latest one; one that says nothing where there is none."""
    try:
        return from_json(Heartbeat, sound(durable.read_json(folder / "heartbeat")))
    except (OSError, ValueError):
        return Heartbeat()


def _outcome_in(folder: Path) -> TrainingOutcome | TrainingFailure | None:
    """How the training ended; None while it has not."""
    try:
        written = sound(durable.read_json(folder / "outcome.json"))
    except (OSError, ValueError):
        return None
    with suppress(ValueError):
        return from_json(TrainingOutcome, written)
    with suppress(ValueError):
        return from_json(TrainingFailure, written)
    return None


def _state(
    heartbeat: Heartbeat, outcome: TrainingOutcome | TrainingFailure | None, silent: float | None
) -> tuple[ModelState, str]:
    if isinstance(outcome, TrainingFailure):
        return "failed", " ".join(outcome.message.split())
    if outcome is not None:
        return ("finished" if outcome.status == "finished" else "stopped"), outcome.why
    if silent is not None and silent > SILENT_SECONDS:
        return "silent", heartbeat.activity
    return "training", heartbeat.activity


def _seconds_left(phases: Sequence[PhaseView], models: Sequence[ModelView], plan: PlanNote) -> float | None:
    """Of the whole run: what the phases after this one were planned to take, and what is left of this one. None before
    there is a plan."""
    at = next((phase for phase in phases if phase.state == "running"), None)
    if at is None or not plan.phases:
        return None
    later = sum(phase.planned_seconds or 0.0 for phase in phases if phase.number > at.number)
    left = max(0.0, (at.planned_seconds or 0.0) - at.seconds)
    if at.title == "Training":
        waiting = {model.name for model in models if model.state == "waiting"}
        left = sum(planned.seconds for planned in plan.ladder if planned.name in waiting)
        left += sum(model.eta_seconds or 0.0 for model in models if model.state in ("training", "silent"))
    return later + left


def _happenings(events: Sequence[TrainerEvent], where: str) -> list[Happening]:
    return [
        Happening(
            event.time if 0 <= event.time <= LATEST else 0.0,
            f"{where} step {event.step:,}".strip(),
            f"{event.event.replace('_', ' ')}: {event.message}",
            event.event not in ORDINARY,
        )
        for event in events
    ]


def _troubles(phases: Sequence[PhaseView]) -> list[Happening]:
    """The phases that failed or were blocked, with the cause."""
    failed = [phase for phase in phases if phase.trouble]
    return [
        Happening(phase.ended_at, f"{phase.number} {phase.title}", phase.trouble, is_trouble=True) for phase in failed
    ]


def _val_loss(row: Row) -> float:
    value = _number(row.get("val_loss"))
    return float("inf") if value is None else value


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _series(rows: list[Row], key: str) -> Series:
    steps, values = column(rows, "step", key)
    seconds, _ = column([row for row in rows if isinstance(row.get(key), int | float)], "seconds", key)
    return Series(steps, seconds if len(seconds) == len(steps) else [], values)


def _smooth(series: Series) -> Series:
    return replace(series, values=smoothed(series.values))


def _thin(series: Series) -> Series:
    places, values = thinned([float(place) for place in range(len(series.values))], series.values)
    kept = [int(place) for place in places]
    seconds = [series.seconds[place] for place in kept] if series.seconds else []
    return Series([series.steps[place] for place in kept], seconds, values)


def _samples(rows: Sequence[Row]) -> list[Sample]:
    """The latest ones; of a row that is no sample, nothing."""
    found = []
    for row in rows[-SAMPLES_SHOWN:]:
        try:
            found.append(from_json(Sample, row))
        except ValueError:
            continue
    return found
