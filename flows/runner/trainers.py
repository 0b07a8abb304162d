"""Where short trainings run: one at a time in the run's worker, or several on a Dask cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from flows.runner.run import Run
from nanogpt.faults import UserError
from nanogpt.machine import physical_cores
from nanogpt.process.worker import invoke

SECONDS_TO_CONNECT = 10
TaskRunner = Literal["local", "dask"]


class Trainers(Protocol):
    """Calls functions that are named by text, as nanogpt.process.worker.Worker does."""

    at_once: int

    def call(self, target: str, *, timeout: float, **arguments: Any) -> Any:
        """The picklable result of `module:function`(**arguments). Raises what the function raises, and its own error
        when there is none after `timeout` seconds."""


@dataclass
class InWorker:
    """One call at a time, in the run's own worker: this process stays free of torch."""

    run: Run
    at_once: int = 1

    def call(self, target: str, *, timeout: float, **arguments: Any) -> Any:
        return self.run.worker.call(target, timeout=timeout, **arguments)


@dataclass
class OnCluster:
    """As many calls at once as the cluster has threads."""

    submit: Callable[..., Any]  # of a Dask client
    at_once: int

    def call(self, target: str, *, timeout: float, **arguments: Any) -> Any:
        answer = self.submit(invoke, target, arguments, pure=False)
        try:
            return answer.result(timeout)
        except CancelledError:
            raise RuntimeError("the cluster was closed before it had ended") from None
        finally:
            answer.cancel()  # what outlasts its time; one that is done stays done


@contextmanager
def open_trainers(run: Run, kind: TaskRunner, workers: int | None, address: str | None) -> Iterator[Trainers]:
    """`workers` processes of a cluster of this machine, one a physical core by default, or the cluster whose scheduler
    is at `address`. Raises UserError when there is none there."""
    if kind == "local":
        yield InWorker(run)
        return
    # Prefect's own way to a cluster. Imported here because it imports Prefect (1.5 s), which has to read its settings
    # after the server's address is known.
    from prefect_dask.task_runners import DaskTaskRunner

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what fails reaches us as an exception
    local = {"n_workers": workers or physical_cores(), "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    runner = DaskTaskRunner(
        address=address,
        cluster_kwargs=None if address else {**local, "silence_logs": logging.CRITICAL},
        client_kwargs={"timeout": SECONDS_TO_CONNECT},
    )
    with runner:
        try:
            client = runner.client
        except (OSError, ValueError) as error:
            raise UserError(f"--dask-address {address}: no scheduler answers there ({error})") from None
        threads = sum(worker["nthreads"] for worker in client.scheduler_info()["workers"].values())
        if not threads:
            raise UserError(f"--dask-address {address}: the scheduler there has no workers")
        yield OnCluster(client.submit, threads)
