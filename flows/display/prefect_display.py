"""The run in Prefect's pages: phases and steps as tasks, progress, documents and log lines.

Prefect is the display, never the judge. It never sees an exception of ours: a task's body catches it, returns the state
to show, and the caller gets the exception from us. The run waits for the server only at the flow's own first and last
state.

Signals: Prefect's flow engine takes SIGTERM (not SIGINT) and turns it into an exception of its own; the handlers
of before the flow are put back before our code runs, so a run's own handlers hold in every phase and step.

Import after `prefect_server.connect`: Prefect reads its settings when it is imported.
"""

import base64
import contextlib
import contextvars
import inspect
import json
import math
import mimetypes
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import TerminationSignal
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.display.plain import PlainDisplay, Scope, run_and_join
from flows.display.prefect_client import (
    create_flow_run,
    is_cancelled,
    new_client,
    send_missing_states,
    set_flow_state,
)
from flows.display.prefect_courier import Courier, current_run, drain_events
from flows.display.prefect_outcome import Call, cached, explanation, flow_state, task_state
from flows.display.prefect_quiet import Handlers, quiet_prefect
from flows.display.prefect_server import RESTART_PATIENCE, Server
from flows.display.protocol import BackgroundStep, Level, Log, Opening, Row, T, TrainingProgress, one_line

FLOW_NAME = "nanogpt-autopilot"
PROGRESS_SECONDS = 10.0  # between two deliveries of one progress artifact
LINE_SECONDS = 30.0  # between two lines of a training's log; 20,000 lines cost 24 s of the server's time and 9 MB
CANCEL_SECONDS = 2.0  # between two looks at whether the flow run was cancelled; one takes 10 ms
RECORDING_SECONDS = 1.5  # the server stores events once a second
BEGINNINGS = 3  # attempts to make the flow run known to the server
DRAIN_SECONDS = 10.0  # at the end of a flow, for what is still on its way to a healthy server; commonly 0.3 s

Ending = Callable[[], State[Any]]  # the state that a task or flow ends in, once its function has run


@dataclass
class _Shown:
    """What a task showed of its progress, and when (time.monotonic)."""

    progress: TrainingProgress
    delivered: float = -math.inf
    logged: float = -math.inf


class PrefectDisplay(PlainDisplay):
    """Shows the run in the pages of `server`; Prefect's own complaints go to `log`."""

    def __init__(self, server: Server, log: Log) -> None:
        super().__init__()
        quiet_prefect(log)
        self._server = server
        self._log = log
        self._courier = Courier(server, log)
        self._flow_run_id: UUID | None = None
        self._flow_context = contextvars.Context()
        self._task_runs: list[TaskRun] = []
        self._explained: Exception | None = None
        self._run = ""
        self._progress: dict[UUID | None, _Shown] = {}  # of each task that shows some

    @property
    def url(self) -> str | None:
        page = f"/runs/flow-run/{self._flow_run_id}" if self._flow_run_id else ""
        return None if self._server.lost.is_set() else self._server.url + page

    def flow(self, function: Callable[[], T], opening: Opening) -> T:
        scope = Scope()
        call = Call(lambda: run_and_join(function, scope))
        handlers = Handlers()
        self._run = opening.run

        def body(**parameters: object) -> State[Any]:
            handlers.restore()
            self._flow_run_id, _ = current_run()
            with self.within(scope), self._watching_for_cancel(opening.cancel):
                self._flow_context = contextvars.copy_context()
                call.run()
            return flow_state(call, scope)

        names = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in opening.parameters]
        body.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]  # the page shows each by its name
        flow = Flow(body, name=FLOW_NAME, persist_result=False, retries=0, validate_parameters=False)
        number = str(uuid4())

        def start() -> State[Any]:
            flow_run = create_flow_run(flow, opening, number)
            parameters = dict(opening.parameters)
            return cast("State[Any]", run_flow(flow, flow_run, parameters, return_type="state"))

        settings = {
            PREFECT_CLIENT_MAX_RETRIES: 0,  # `_record_end` tries again, and knows whether that has any hope
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,  # for Prefect Cloud's automations; its end takes up to 1 s
        }
        falls = self._server.falls
        try:
            with temporary_settings(settings):
                shown = self._begin(start, call)
            if shown.type != flow_state(call, scope).type:  # the engine took a lost request for our failure
                self._record_end(call, scope, shown.message)
        except Exception as error:
            self._record_end(call, scope, one_line(error))
        except TerminationSignal:
            # Prefect holds SIGTERM before and after `body`; it is for whoever handled it before the flow.
            handlers.restore()
            signal.raise_signal(signal.SIGTERM)
        finally:
            handlers.restore()
        try:
            return call.result()
        finally:
            self._deliver_rest(falls)

    @contextlib.contextmanager
    def _watching_for_cancel(self, cancel: Callable[[], None]) -> Iterator[None]:
        """Ask the server now and then whether a person has cancelled the flow run on its page."""
        over, flow_run_id = threading.Event(), self._flow_run_id

        def watch() -> None:
            with new_client() as client:
                while flow_run_id is not None and not over.wait(CANCEL_SECONDS):
                    if is_cancelled(client, flow_run_id) and not over.is_set():
                        cancel()
                        return

        threading.Thread(target=watch, name="prefect-cancel", daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def _begin(self, start: Ending, call: Call[T]) -> State[Any]:
        """Run Prefect's flow; again, when it failed before it came to our function (a server busy or restarting)."""
        for _ in range(BEGINNINGS - 1):
            self._server.wait_until_healthy(RESTART_PATIENCE)
            try:
                return start()
            except Exception:
                if call.started or self._server.lost.is_set():
                    raise
        return start()

    def _deliver_rest(self, falls: int) -> None:
        """Let what is under way arrive; after a restart of the server within the flow, see that all of it did."""
        patience = DRAIN_SECONDS if self._server.healthy() else 0
        self._courier.drain(patience)
        drain_events(patience)
        if not patience or self._flow_run_id is None or self._server.falls == falls:
            return
        try:
            for attempt in range(1, 4):
                time.sleep(RECORDING_SECONDS)
                if not send_missing_states(self._flow_run_id, self._task_runs, self._flow_context, attempt):
                    return
                drain_events(patience)
        except Exception as error:
            self._log(f"Prefect's pages may miss the end of some tasks: {one_line(error)}")

    def _record_end(self, call: Call[T], scope: Scope, why: str | None) -> None:
        """The flow engine could not reach the server: wait for a restart that may be under way, then record the end."""
        patience = 0 if call.was_interrupted else RESTART_PATIENCE
        if self._flow_run_id is None or not self._server.wait_until_healthy(patience):
            self._log(f"Prefect could not record the flow run: {why}")
            return
        try:
            set_flow_state(self._flow_run_id, flow_state(call, scope))
        except Exception as second:
            self._log(f"Prefect could not record the end of the flow run: {one_line(second)}")

    def phase(self, label: str, function: Callable[[], T]) -> T:
        around, scope = self.scope, Scope()
        call = Call(lambda: run_and_join(function, scope))

        def ending() -> State[Any]:
            kept = f"{scope.kept} of {scope.steps} steps kept" if scope.kept else None
            if kept:
                self.note(kept)  # the pages show a state's name, but not its message
            return cached(kept) if kept and scope.kept == scope.steps and not call.error else task_state(call, kept)

        with self.within(scope):
            try:
                return self._task(label, call, ending)
            finally:
                if isinstance(call.error, Exception):
                    around.failures.append(f"{label}: {one_line(call.error)}")

    def step(self, title: str, function: Callable[[], T]) -> T:
        self.scope.steps += 1
        return self._step(title, function)

    def step_kept(self, title: str, reason: str) -> None:
        self.scope.steps += 1
        self.scope.kept += 1
        self._task(title, Call(lambda: self.note(f"kept: {reason}")), lambda: cached(reason))

    def start_in_background(self, title: str, function: Callable[[], T]) -> BackgroundStep[T]:
        self.scope.steps += 1
        return super().start_in_background(title, lambda: self._step(title, function))

    def progress(self, progress: TrainingProgress) -> None:
        _, task_run_id = current_run()
        shown, now = self._progress.setdefault(task_run_id, _Shown(progress)), time.monotonic()
        shown.progress = progress
        if now - shown.delivered >= PROGRESS_SECONDS:
            shown.delivered = now
            self._deliver_progress(progress, progress.fraction)
        if progress.loss is not None and now - shown.logged >= LINE_SECONDS:
            shown.logged = now
            self.note(progress.line())

    def _end_progress(self, call: Call[T]) -> None:
        """The last word of a task that showed progress."""
        shown = self._progress.pop(current_run()[1], None)
        if shown is None:
            return
        ending = "done" if call.error is None else "stopped" if call.was_interrupted else "failed"
        progress = replace(shown.progress, seconds_left=None, activity=ending)
        self._deliver_progress(progress, 1.0 if call.error is None else progress.fraction)
        self.note(progress.line())

    def _deliver_progress(self, progress: TrainingProgress, fraction: float) -> None:
        key = self._key(f"training-{progress.model}")
        self._courier.artifact(key, "progress", round(100 * fraction, 1), progress.line())

    def markdown(self, key: str, text: str, description: str = "") -> None:
        self._courier.artifact(self._key(key), "markdown", text, description)

    def table(self, key: str, rows: Sequence[Row], description: str = "") -> None:
        self._courier.artifact(self._key(key), "table", json.dumps(list(rows), default=str), description)

    def image(self, key: str, file: Path, description: str = "") -> None:
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        data = base64.b64encode(file.read_bytes()).decode("ascii")
        self._courier.artifact(self._key(key), "image", f"data:{kind};base64,{data}", description)

    def _key(self, words: str) -> str | None:
        """An artifact's key as the server takes it: small_model of the run default -> default-small-model.

        None where all steps of the phase so far were kept: what they show is no news, and must not stand in front of
        what was shown when they ran.
        """
        scope = self.scope
        if scope.steps and scope.kept == scope.steps:
            return None
        return re.sub(r"[^a-z0-9]+", "-", f"{self._run} {words}".lower()).strip("-")

    def note(self, message: str, level: Level = "info") -> None:
        self._courier.line(message, level)

    def _step(self, title: str, function: Callable[[], T]) -> T:
        call = Call(function)
        return self._task(title, call, lambda: task_state(call))

    def _task(self, title: str, call: Call[T], ending: Ending) -> T:
        if self._server.lost.is_set() or FlowRunContext.get() is None:
            return call.result()

        def body() -> State[Any]:
            if context := TaskRunContext.get():
                self._task_runs.append(context.task_run)
            call.run()
            self._end_progress(call)
            if isinstance(call.error, Exception) and call.error is not self._explained:
                self._explained = call.error  # once, in the step's log; the phase around it only fails with it
                self.note(explanation(call.error), "error")
            if call.left_out:
                self.note(f"left out: {call.left_out}")
            return ending()

        task = Task(
            body, name=title, task_run_name=lambda: title, cache_policy=NO_CACHE, persist_result=False, retries=0
        )
        try:
            task(return_state=True)
        except Exception as error:
            self._log(f"Prefect could not show {title!r}: {one_line(error)}")
        return call.result()
