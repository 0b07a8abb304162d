"""Follows a run and shows it in Prefect's pages: a flow, and phases and steps as tasks within it.

Its tasks only wait for news of what they show, on threads that no signal reaches, and nothing of the run depends on
them. They wait for the server only at the flow's own first and last state. What happened before the pages were open is
shown as if it happened then; its log lines have their own times.

Import after `prefect_server.connect`: Prefect reads its settings when it is imported.
"""

import contextvars
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast
from uuid import UUID, uuid4

from prefect import Flow, Task, flow_engine
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, StateType, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.display.followed import Artifact, Ending, Followed, Line
from flows.display.prefect_client import (
    create_flow_run,
    send_missing_states,
    set_flow_state,
)
from flows.display.prefect_courier import Courier, current_run, drain_events
from flows.display.prefect_process import is_cancelled, last_written
from flows.display.prefect_quiet import quiet_prefect
from flows.display.prefect_server import RESTART_PATIENCE, Server
from flows.display.protocol import Log, Opening, one_line

FLOW_NAME = "nanogpt-autopilot"
CANCEL_SECONDS = 4.0  # between two looks at whether the flow run was cancelled
RECORDING_SECONDS = 1.5  # the server stores events once a second
BEGINNINGS = 3  # attempts to make the flow run known to the server
ENDINGS = 3  # attempts to record its end: a server that has just come back is busy
DRAIN_SECONDS = 10.0  # at the end of a flow, for what is still on its way to a healthy server; commonly 0.3 s

# Nothing of a run can be paused on its page. Prefect looks for that five times a second, and holds a websocket for it.
flow_engine.observe_flow_run_suspension = lambda *_: nullcontext()  # type: ignore[attr-defined, assignment]


class Pages:
    """The pages of one flow on `server`; what Prefect complains of goes to `log`."""

    def __init__(self, server: Server, log: Log) -> None:
        quiet_prefect(log)
        self._server, self._log = server, log
        self._courier = Courier(server, log)
        self._flow_run_id: UUID | None = None
        self._flow_context = contextvars.Context()
        self._task_runs: list[TaskRun] = []
        self._ending: Ending | None = None  # of the flow

    def show(self, flow: Followed, opening: Opening) -> None:
        """Show `flow` until it has ended, and all that is known of it has arrived."""

        def body(**parameters: object) -> State[Any]:
            self._flow_run_id, _ = current_run()
            flow.page = f"/runs/flow-run/{self._flow_run_id}"
            self._flow_context = contextvars.copy_context()
            with self._watching_for_cancel(opening.cancel):
                self._ending = self._attend(flow)
            return _state(self._ending)

        names = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in opening.parameters]
        body.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]  # the page shows each by its name
        prefect_flow = Flow(body, name=FLOW_NAME, persist_result=False, retries=0, validate_parameters=False)
        number = str(uuid4())

        def start() -> State[Any]:
            flow_run = create_flow_run(prefect_flow, opening, number)
            parameters = dict(opening.parameters)
            return cast("State[Any]", run_flow(prefect_flow, flow_run, parameters, return_type="state"))

        settings = {
            PREFECT_CLIENT_MAX_RETRIES: 0,  # `_record_end` tries again, and knows whether that has any hope
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,  # for Prefect Cloud's automations; its end takes up to 1 s
        }
        falls = self._server.falls
        try:
            with temporary_settings(settings):
                shown = self._begin(start)
            if self._ending and shown.type != _state(self._ending).type:  # a lost request was taken for our failure
                self._record_end(shown.message)
        except Exception as error:
            self._record_end(one_line(error))
        finally:
            self._deliver_rest(falls)

    def _begin(self, start: Callable[[], State[Any]]) -> State[Any]:
        """Run Prefect's flow; again, when it failed before it came to our function (a server busy or restarting)."""
        for _ in range(BEGINNINGS - 1):
            self._server.wait_until_healthy(RESTART_PATIENCE)
            try:
                return start()
            except Exception:
                if self._flow_run_id or self._server.lost.is_set():
                    raise
        return start()

    def _attend(self, followed: Followed) -> Ending:
        """Show what happens within the flow or task of this thread; how it ended."""
        in_background = []
        while not isinstance(news := followed.next_news(), Ending):
            if isinstance(news, Line):
                self._courier.line(news)
            elif isinstance(news, Artifact):
                self._courier.artifact(news)
            elif news.in_background:
                context = contextvars.copy_context()
                thread = threading.Thread(target=context.run, args=(self._show_task, news.what), daemon=True)
                thread.start()
                in_background.append(thread)
            else:
                self._show_task(news.what)
        for thread in in_background if news.kind != "CANCELLED" else ():  # an interrupt waits for nothing
            thread.join()
        return news

    def _show_task(self, followed: Followed) -> None:
        if self._server.lost.is_set() or FlowRunContext.get() is None:
            return

        def body() -> State[Any]:
            if context := TaskRunContext.get():
                self._task_runs.append(context.task_run)
            return _state(self._attend(followed))

        task = Task(
            body, name=followed.title, task_run_name=lambda: followed.title, cache_policy=NO_CACHE,
            persist_result=False, retries=0,
        )  # fmt: skip
        try:
            task(return_state=True)
        except Exception as error:
            self._log(f"Prefect could not show {followed.title!r}: {one_line(error)}")

    @contextmanager
    def _watching_for_cancel(self, cancel: Callable[[], None]) -> Iterator[None]:
        """Look now and then whether a person has cancelled the flow run on its page. The server is asked only where
        it has written something meanwhile: an answer takes 5 ms of its time, and 2 ms here."""
        over, flow_run_id = threading.Event(), self._flow_run_id

        def watch() -> None:
            seen: tuple[int, ...] = ()
            while not over.wait(CANCEL_SECONDS):
                written = last_written(self._server.home)
                if written and written == seen:
                    continue
                cancelled = is_cancelled(self._server.record.port, str(flow_run_id))
                if cancelled and not over.is_set():
                    cancel()
                    return
                seen = () if cancelled is None else written

        threading.Thread(target=watch, name="prefect-cancel", daemon=True).start()
        try:
            yield
        finally:
            over.set()

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

    def _record_end(self, why: str | None) -> None:
        """The flow engine could not reach the server: wait for a restart that may be under way, then record the end."""
        ending = self._ending
        patience = 0 if ending and ending.kind == "CANCELLED" else RESTART_PATIENCE
        if self._flow_run_id is None or ending is None or not self._server.wait_until_healthy(patience):
            self._log(f"Prefect could not record the flow run: {why}")
            return
        for attempts_left in reversed(range(ENDINGS)):
            try:
                set_flow_state(self._flow_run_id, _state(ending))
                return
            except Exception as error:
                if not attempts_left:
                    self._log(f"Prefect could not record the end of the flow run: {one_line(error)}")
                    return
                time.sleep(RECORDING_SECONDS)


def _state(ending: Ending) -> State[Any]:
    return State(type=StateType(ending.kind), name=ending.name, message=ending.message)
