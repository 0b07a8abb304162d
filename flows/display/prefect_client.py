"""A run's own requests to its workspace's Prefect server, besides those of Prefect's engine.

Import after `prefect_server.connect`: Prefect reads its settings when it is imported.
"""

import uuid
from collections.abc import Sequence
from contextvars import Context
from datetime import timedelta
from functools import partialmethod
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.states import Cancelled, Crashed, Pending
from prefect.utilities.engine import emit_task_run_state_change_event

from flows.display.protocol import Opening

UNFINISHED = {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}
KILLED = "the process ended without a word (killed, or the machine stopped); the same command continues"
NOT_FROM_HERE = "Nothing starts a run from its page (Retry, Quick run): use its command in a terminal."

# Prefect has no setting for this. httpx fails at a kind of proxy that it does not know (socks5) even where it would not
# use it; the server is on this machine, and needs none.
for kind in (PrefectHttpxAsyncClient, PrefectHttpxSyncClient):
    kind.__init__ = partialmethod(kind.__init__, trust_env=False)  # type: ignore[method-assign, assignment]


def new_client() -> SyncPrefectClient:
    return get_client(sync_client=True)


def mark_crashed(tag: str) -> int:
    """Mark as Crashed what is unfinished under `tag`; the number of flow runs. What waits for a start is cancelled."""
    with new_client() as client:
        for run in client.read_flow_runs(flow_run_filter=_tagged(tag, {"type": {"any_": ["SCHEDULED"]}})):
            client.set_flow_run_state(run.id, Cancelled(message=NOT_FROM_HERE), force=True)
        runs = client.read_flow_runs(flow_run_filter=_tagged(tag, UNFINISHED))
        if not runs:
            return 0
        tasks = client.read_task_runs(
            flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run.id for run in runs]}}),
            task_run_filter=TaskRunFilter.model_validate({"state": UNFINISHED}),
        )
        for task in tasks:
            client.set_task_run_state(task.id, Crashed(message=KILLED), force=True)
        for run in runs:
            client.set_flow_run_state(run.id, Crashed(message=KILLED), force=True)
    return len(runs)


def _tagged(tag: str, state: dict[str, dict[str, list[str]]]) -> FlowRunFilter:
    return FlowRunFilter.model_validate({"tags": {"all_": [tag]}, "state": state})


def create_flow_run(flow: Flow[..., State[Any]], opening: Opening, start: str) -> FlowRun:
    """The flow run of a start; asked again with the same `start`, the same one.

    Each run of this project is a deployment: the pages list its starts together, and offer Cancel for those alone.
    """
    with new_client() as client:
        deployment_id = client.create_deployment(
            client.create_flow(flow), opening.run, paused=True, enforce_parameter_schema=False,
            description=NOT_FROM_HERE, tags=list(opening.tags),
        )  # fmt: skip
        return client.create_flow_run_from_deployment(
            deployment_id, parameters=dict(opening.parameters), state=Pending(), name=opening.name or opening.run,
            tags=opening.tags, idempotency_key=start,
        )  # fmt: skip


def set_flow_state(flow_run_id: UUID, state: State[object]) -> None:
    with new_client() as client:
        client.set_flow_run_state(flow_run_id, state, force=True)


def send_missing_states(flow_run_id: UUID, task_runs: Sequence[TaskRun], flow_context: Context, attempt: int) -> bool:
    """Send the final states of those tasks that the server does not have; True when there were any.

    What is sent in the moment in which a server dies counts as sent. The events say by `flow_context` which flow
    they belong to; `attempt` counts from 1.
    """
    of_this_flow = FlowRunFilter.model_validate({"id": {"any_": [flow_run_id]}})
    with new_client() as client:
        recorded = {run.id: run.state for run in client.read_task_runs(flow_run_filter=of_this_flow)}
    is_missing = False
    for run in task_runs:
        before = recorded.get(run.id)
        if run.state is None or (before is not None and before.is_final()):
            continue
        is_missing = True
        # A known id would be taken for a duplicate, and a known time fails the server's whole batch.
        fresh = {"id": uuid.uuid4(), "timestamp": run.state.timestamp + timedelta(microseconds=attempt)}
        state = run.state.model_copy(update=fresh)
        flow_context.run(emit_task_run_state_change_event, run, before, state)
    return is_missing
