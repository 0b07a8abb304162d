"""Takes what a run has to show to the Prefect server, so that nobody waits for it."""

import logging
import queue
import threading
import uuid
from collections import deque
from collections.abc import Callable
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.display.prefect_server import RESTART_PATIENCE, Server
from flows.display.protocol import Log, one_line

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    Errand = Callable[[SyncPrefectClient], None]

LOGGER_NAME = "nanogpt-autopilot"


class Courier:
    """Takes log lines and artifacts to the server from a thread of its own, so that nobody waits for them.

    What can't be delivered is dropped, with one warning.
    """

    def __init__(self, server: Server, log: Log) -> None:
        self._server = server
        self._log = log
        self._errands: queue.Queue[Errand] = queue.Queue(maxsize=1000)
        self._lines: deque[Any] = deque(maxlen=1000)
        self._progress_ids: dict[str, Any] = {}
        self._warned = False
        threading.Thread(target=self._work, name="prefect-courier", daemon=True).start()

    def line(self, message: str, level: str) -> None:
        from prefect.client.schemas.actions import LogCreate

        flow_run_id, task_run_id = _current_run()
        if flow_run_id is None:
            return
        number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
        entry = LogCreate(
            name=LOGGER_NAME, level=number, message=message, timestamp=datetime.now(UTC),
            flow_run_id=flow_run_id, task_run_id=task_run_id,
        )  # fmt: skip
        self._lines.append(entry)
        self._send(self._deliver_lines)

    def artifact(self, key: str, kind: str, data: Any, description: str) -> None:
        from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

        flow_run_id, task_run_id = _current_run()
        if flow_run_id is None:
            return

        def deliver(client: "SyncPrefectClient") -> None:
            if kind == "progress" and key in self._progress_ids:
                client.update_artifact(self._progress_ids[key], ArtifactUpdate(data=data, description=description))
                return
            wanted = ArtifactCreate(
                key=key, type=kind, data=data, description=description,
                flow_run_id=flow_run_id, task_run_id=task_run_id,
            )  # fmt: skip
            made = client.create_artifact(wanted)
            if kind == "progress":
                self._progress_ids[key] = made.id

        self._send(deliver)

    def drain(self, seconds: float) -> None:
        """Wait a little for what is under way."""
        arrived = threading.Event()
        self._send(lambda client: arrived.set())
        arrived.wait(seconds)

    def _send(self, errand: "Errand") -> None:
        try:
            self._errands.put_nowait(errand)
        except queue.Full:
            self._warn("more than can be delivered")

    def _deliver_lines(self, client: "SyncPrefectClient") -> None:
        """All lines that have gathered, in one request; a later errand for them finds nothing left."""
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if not lines:
            return
        try:
            client.create_logs(lines)
        except Exception:
            self._lines.extendleft(reversed(lines))
            raise

    def _work(self) -> None:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            while True:
                errand = self._errands.get()
                if self._server.lost.is_set():
                    self._warn("the server is gone")
                    continue
                try:
                    self._try_twice(errand, client)
                except Exception as error:
                    self._warn(one_line(error))

    def _try_twice(self, errand: "Errand", client: "SyncPrefectClient") -> None:
        try:
            errand(client)
        except Exception:
            if not self._server.wait_until_healthy(RESTART_PATIENCE):
                raise
            errand(client)

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._log(f"Prefect's pages miss some log lines or artifacts: {why}")
        self._warned = True


def _current_run() -> tuple[Any, Any]:
    """Ids of the flow run and task run that this thread is in, None where there is none."""
    from prefect.context import FlowRunContext, TaskRunContext

    flow, task = FlowRunContext.get(), TaskRunContext.get()
    return (flow.flow_run.id if flow else None), (task.task_run.id if task else None)


def drain_events(seconds: float) -> None:
    """Let the task states that are still on their way arrive; then drop the rest.

    Without this the interpreter's exit waits for each of them in turn, 7 s a piece when the server is gone.
    """
    from prefect.events.worker import EventsWorker

    under_way = [(worker._loop, worker._task) for worker in EventsWorker._instances.values() if worker._task]
    EventsWorker.drain_all(timeout=seconds)
    for loop, task in under_way:
        if not task.done():
            loop.call_soon_threadsafe(task.cancel)


def tell_again(flow_run_id: Any, task_runs: list[Any], flow_context: Context, attempt: int) -> bool:
    """Send the final states of those tasks that the server does not have; True when there were any.

    What is sent in the moment in which a server dies counts as sent. The events say by `flow_context` which flow
    they belong to; `attempt` counts from 1.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.utilities.engine import emit_task_run_state_change_event

    of_this_flow = FlowRunFilter.model_validate({"id": {"any_": [flow_run_id]}})
    with get_client(sync_client=True) as client:
        recorded = {run.id: run.state for run in client.read_task_runs(flow_run_filter=of_this_flow)}
    missing = [run for run in task_runs if not (recorded.get(run.id) and recorded[run.id].is_final())]
    for run in missing:
        # A known id would be taken for a duplicate, and a known time fails the server's whole batch.
        fresh = {"id": uuid.uuid4(), "timestamp": run.state.timestamp + timedelta(microseconds=attempt)}
        state = run.state.model_copy(update=fresh)
        flow_context.run(emit_task_run_state_change_event, run, recorded.get(run.id), state)
    return bool(missing)
