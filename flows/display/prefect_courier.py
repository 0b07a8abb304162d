"""Takes log lines and artifacts to the Prefect server, so that nobody waits for it.

Import after `prefect_server.connect`: Prefect reads its settings when it is imported.
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate, LogCreate
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events.worker import EventsWorker

from flows.display.followed import Artifact, Line
from flows.display.prefect_client import new_client
from flows.display.prefect_server import RESTART_PATIENCE, Server
from flows.display.protocol import Log, one_line

LOGGER_NAME = "nanogpt-autopilot"
Errand = Callable[[SyncPrefectClient], None]


class Courier:
    """Takes log lines and artifacts to the server from a thread of its own.

    What can't be delivered is dropped, with one warning.
    """

    def __init__(self, server: Server, log: Log) -> None:
        self._server = server
        self._log = log
        self._errands: queue.Queue[Errand] = queue.Queue(maxsize=1000)
        self._lines: deque[LogCreate] = deque(maxlen=1000)
        self._artifact_ids: dict[str, UUID] = {}
        self._warned = False
        threading.Thread(target=self._work, name="prefect-courier", daemon=True).start()

    def line(self, line: Line) -> None:
        flow_run_id, task_run_id = current_run()
        if flow_run_id is None:
            return
        number = logging.getLevelNamesMapping()[line.level.upper()]
        entry = LogCreate(
            name=LOGGER_NAME, level=number, message=line.message, timestamp=line.time,
            flow_run_id=flow_run_id, task_run_id=task_run_id,
        )  # fmt: skip
        self._lines.append(entry)
        self._send(self._deliver_lines)

    def artifact(self, shown: Artifact) -> None:
        """Make it, or change the one of its key in this session."""
        flow_run_id, task_run_id = current_run()
        if flow_run_id is None:
            return

        def deliver(client: SyncPrefectClient) -> None:
            if made := self._artifact_ids.get(shown.key or ""):
                client.update_artifact(made, ArtifactUpdate(data=shown.data, description=shown.description))
                return
            wanted = ArtifactCreate(
                key=shown.key, type=shown.kind, data=shown.data, description=shown.description,
                flow_run_id=flow_run_id, task_run_id=task_run_id,
            )  # fmt: skip
            artifact = client.create_artifact(wanted)
            if shown.key is not None:
                self._artifact_ids[shown.key] = artifact.id

        self._send(deliver)

    def drain(self, seconds: float) -> None:
        """Wait a little for what is under way."""
        arrived = threading.Event()
        self._send(lambda client: arrived.set())
        arrived.wait(seconds)

    def _send(self, errand: Errand) -> None:
        try:
            self._errands.put_nowait(errand)
        except queue.Full:
            self._warn("more than can be delivered")

    def _deliver_lines(self, client: SyncPrefectClient) -> None:
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
        with new_client() as client:
            while True:
                errand = self._errands.get()
                if self._server.lost.is_set():
                    self._warn("the server is gone")
                    continue
                try:
                    self._try_twice(errand, client)
                except Exception as error:
                    self._warn(one_line(error))

    def _try_twice(self, errand: Errand, client: SyncPrefectClient) -> None:
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


def current_run() -> tuple[UUID | None, UUID | None]:
    """Ids of the flow run and task run that this thread is in, None outside one."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    return (flow.flow_run.id if flow and flow.flow_run else None), (task.task_run.id if task else None)


def drain_events(seconds: float) -> None:
    """Let the task states that are still on their way arrive; then drop the rest.

    Without this the interpreter's exit waits for each of them in turn, 7 s a piece when the server is gone.
    """
    workers = EventsWorker._instances.values()  # type: ignore[misc]  # it is typed for its subclasses
    under_way = [(worker._loop, worker._task) for worker in workers]
    EventsWorker.drain_all(timeout=seconds)
    for loop, task in under_way:
        if loop is not None and task is not None and not task.done():
            loop.call_soon_threadsafe(task.cancel)
