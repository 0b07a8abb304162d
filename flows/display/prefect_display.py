"""The run in Prefect's pages: phases and steps as tasks, progress, documents and log lines.

Prefect is the display, never the judge, and the run never waits for it: the run works at once, on its own thread, and
tells what happens (followed.py). Another thread starts the server, imports Prefect (5 s in all) and shows it
(prefect_pages.py). Only the end of a flow waits until what is under way has arrived.
"""

import base64
import json
import math
import mimetypes
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path

from flows.display.followed import (
    Artifact,
    ArtifactKind,
    Begun,
    Ending,
    Followed,
    Line,
    News,
    ending_of,
    explanation,
    flow_ending,
    kept,
)
from flows.display.plain import PlainDisplay, Scope, run_and_join
from flows.display.prefect_server import Server
from flows.display.protocol import BackgroundStep, LeftOut, Level, Log, Opening, Row, T, TrainingProgress, one_line

PROGRESS_SECONDS = 20.0  # between two deliveries of one progress artifact; each takes 6 ms of the server, 6 its look at
LINE_SECONDS = 30.0  # between two lines of a training's log; 20,000 lines cost 24 s of the server's time and 9 MB
SETTLING_SECONDS = 20.0  # for pages to open before something is measured; commonly 1 s
END_SECONDS = 120.0  # at the end of a flow, for pages that are still being opened; commonly 0.3 s in all
STOP_SECONDS = 8.0  # the same, when a person stopped it, or the server is gone for good

Connect = Callable[[threading.Event], Server | None]  # the event is set when the run ends before there is a server
EndingOf = Callable[[object, BaseException | None], Ending]  # of the value that a function returned, or what it raised


@dataclass
class _Shown:
    """What a task showed of its progress, and when (time.monotonic)."""

    progress: TrainingProgress
    delivered: float = -math.inf
    logged: float = -math.inf


class PrefectDisplay(PlainDisplay):
    """Shows the run in the pages of the server that `connect` gives; Prefect's own complaints go to `log`."""

    def __init__(self, connect: Connect, log: Log) -> None:
        super().__init__()
        self._connect, self._log = connect, log
        self._followed: ContextVar[Followed | None] = ContextVar("followed", default=None)
        self._flow: Followed | None = None
        self._server: Server | None = None
        self._closing, self._is_unseen = threading.Event(), threading.Event()
        self._explained: BaseException | None = None
        self._progress: dict[Followed | None, _Shown] = {}  # of each task that shows some
        self._run = ""

    @property
    def url(self) -> str | None:
        if self._server is None or self._server.lost.is_set():
            return None
        return self._server.url + (self._flow.page if self._flow else "")

    def flow(self, function: Callable[[], T], opening: Opening) -> T:
        self._run, flow, scope = opening.run, Followed(opening.name or opening.run), Scope()
        self._flow = flow
        pages = threading.Thread(target=self._follow, args=(flow, opening), name="prefect-pages", daemon=True)
        pages.start()
        try:
            with self.within(scope):
                return self._attended(
                    flow, lambda: run_and_join(function, scope), lambda _, error: flow_ending(error, scope)
                )
        except BaseException as error:
            if not isinstance(error, Exception):
                self._closing.set()
            raise
        finally:
            began = time.monotonic()
            while pages.is_alive() and time.monotonic() - began < self._end_seconds:
                pages.join(0.2)

    @property
    def _end_seconds(self) -> float:
        is_lost = self._server is not None and self._server.lost.is_set()
        return STOP_SECONDS if self._closing.is_set() or is_lost else END_SECONDS

    def settle(self) -> None:
        deadline = time.monotonic() + SETTLING_SECONDS
        while not self._is_settled and time.monotonic() < deadline:
            time.sleep(0.05)

    @property
    def _is_settled(self) -> bool:
        return self._is_unseen.is_set() or self._flow is None or bool(self._flow.page)

    def _follow(self, flow: Followed, opening: Opening) -> None:
        """On a thread of its own: open the pages, and show on them what happens."""
        try:
            self._server = self._connect(self._closing)
            if self._server is None:
                return
            # Prefect reads its settings when it is imported, which `connect` has set by now; importing it takes 1.5 s.
            from flows.display.prefect_pages import Pages

            Pages(self._server, self._log).show(flow, opening)
        except Exception as error:
            self._log(f"Prefect's pages end here, and the run goes on: {one_line(error)}")
        finally:
            self._is_unseen.set()
            if self._server is not None:
                self._server.close()

    def phase(self, label: str, function: Callable[[], T]) -> T:
        around, scope = self.scope, Scope()

        def ending(_: object, error: BaseException | None) -> Ending:
            if isinstance(error, Exception):
                around.failures.append(f"{label}: {one_line(error)}")
            of_steps = f"{scope.kept} of {scope.steps} steps kept" if scope.kept else None
            if of_steps:
                self.note(of_steps)  # the pages show a state's name, but not its message
            all_kept = of_steps and scope.kept == scope.steps and not error
            return kept(of_steps) if of_steps and all_kept else ending_of(None, error, of_steps)

        phase = self._begin(label)
        with self.within(scope):
            return self._attended(phase, lambda: run_and_join(function, scope), ending)

    def step(self, title: str, function: Callable[[], T]) -> T:
        self.scope.steps += 1
        return self._attended(self._begin(title), function, ending_of)

    def step_kept(self, title: str, reason: str) -> None:
        self.scope.steps += 1
        self.scope.kept += 1
        step = self._begin(title)
        step.tell(Line(f"kept: {reason}", "info"))
        step.tell(kept(reason))

    def start_in_background(self, title: str, function: Callable[[], T]) -> BackgroundStep[T]:
        self.scope.steps += 1
        step = self._begin(title, in_background=True)
        return super().start_in_background(title, lambda: self._attended(step, function, ending_of))

    def progress(self, progress: TrainingProgress) -> None:
        shown, now = self._progress.setdefault(self._followed.get(), _Shown(progress)), time.monotonic()
        shown.progress = progress
        if now - shown.delivered >= PROGRESS_SECONDS:
            shown.delivered = now
            self._deliver_progress(progress, progress.fraction)
        if progress.loss is not None and now - shown.logged >= LINE_SECONDS:
            shown.logged = now
            self.note(progress.line())

    def markdown(self, key: str, text: str, description: str = "") -> None:
        self._show(key, "markdown", text, description)

    def table(self, key: str, rows: Sequence[Row], description: str = "") -> None:
        self._show(key, "table", json.dumps(list(rows), default=str), description)

    def image(self, key: str, file: Path, description: str = "") -> None:
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        data = base64.b64encode(file.read_bytes()).decode("ascii")
        self._show(key, "image", f"data:{kind};base64,{data}", description)

    def note(self, message: str, level: Level = "info") -> None:
        self._tell(Line(message, level))

    def _begin(self, title: str, in_background: bool = False) -> Followed:
        begun = Followed(title)
        self._tell(Begun(begun, in_background))
        return begun

    def _tell(self, news: News) -> None:
        followed = self._followed.get()
        if followed is not None and not self._is_unseen.is_set():
            followed.tell(news)

    def _attended(self, followed: Followed, function: Callable[[], T], ending: EndingOf) -> T:
        """What `function` returns, while it tells of itself as `followed`."""
        token = self._followed.set(followed)
        value: T | None = None
        error: BaseException | None = None
        try:
            value = function()
            return value
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._end_progress(error)
            if isinstance(error, Exception) and error is not self._explained:
                self._explained = error  # once, in the step's log; the phase around it only fails with it
                self.note(explanation(error), "error")
            if isinstance(value, LeftOut):
                self.note(f"left out: {value.reason}")
            followed.tell(ending(value, error))
            self._followed.reset(token)

    def _end_progress(self, error: BaseException | None) -> None:
        """The last word of a task that showed progress."""
        shown = self._progress.pop(self._followed.get(), None)
        if shown is None:
            return
        ending = "done" if error is None else "failed" if isinstance(error, Exception) else "stopped"
        progress = replace(shown.progress, seconds_left=None, activity=ending)
        self._deliver_progress(progress, 1.0 if error is None else progress.fraction)
        self.note(progress.line())

    def _deliver_progress(self, progress: TrainingProgress, fraction: float) -> None:
        self._show(f"training-{progress.model}", "progress", round(100 * fraction, 1), progress.line())

    def _show(self, words: str, kind: ArtifactKind, data: str | float, description: str) -> None:
        self._tell(Artifact(self._key(words), kind, data, description))

    def _key(self, words: str) -> str | None:
        """An artifact's key as the server takes it: small_model of the run default -> default-small-model.

        None where all steps of the phase so far were kept: what they show is no news, and must not stand in front of
        what was shown when they ran.
        """
        scope = self.scope
        if scope.steps and scope.kept == scope.steps:
            return None
        return re.sub(r"[^a-z0-9]+", "-", f"{self._run} {words}".lower()).strip("-")
