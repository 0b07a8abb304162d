"""A process of its own for library calls that may crash, hang or exhaust memory, so that the autopilot never does.

The orchestrator stays free of torch: functions are named by text ("nanogpt.study.component_checks:run_checks") and
imported in the worker only.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from nanogpt import durable

SECONDS_BETWEEN_SIGNS = 5.0


class WorkerDied(Exception):
    """The worker ended by a signal or an abort; what it last printed is in the message."""


class WorkerKilled(WorkerDied):
    """The worker was ended by SIGKILL: by a person, or by a system without memory, which does it again."""


class WorkerTimedOut(WorkerDied):
    """The worker gave no answer in time and was killed."""


class Worker:
    """One child process, started at the first call and again after a death; `close` frees its memory.

    A call whose process is killed is made once more; `on_kill` is told the evidence and the seconds that it cost.
    `on_wait` is called every few seconds while an answer is waited for.
    """

    def __init__(
        self, log: Path, on_kill: Callable[[str, float], None] = lambda evidence, seconds: None,
        on_wait: Callable[[], None] = lambda: None,
    ):  # fmt: skip
        self._log = log
        self._on_kill, self._on_wait = on_kill, on_wait
        self._log_began_at = 0
        self._pool: ProcessPoolExecutor | None = None
        self._process: multiprocessing.process.BaseProcess | None = None

    def call(self, target: str, *, timeout: float | None = None, **arguments: Any) -> Any:
        """The picklable result of `module:function`(**arguments), run in the worker.

        Raises what the function raises, WorkerDied when the process ends or outlasts `timeout` seconds.
        """
        began = time.monotonic()
        try:
            return self._call(target, timeout, arguments)
        except WorkerKilled as error:
            self._on_kill(str(error), time.monotonic() - began)
            return self._call(target, timeout, arguments)

    def _call(self, target: str, timeout: float | None, arguments: dict[str, Any]) -> Any:
        if self._pool is None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            durable.unblock(self._log)
            self._log_began_at = self._log.stat().st_size if self._log.exists() else 0
            self._pool = ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), initializer=_prepare, initargs=(str(self._log),)
            )
        try:
            answer = self._pool.submit(_invoke, target, arguments)  # Ctrl-C may come before it returns, too
            [self._process] = self._pool._processes.values()
            self._wait_for(answer, timeout)
            return answer.result(timeout=0)
        except BrokenProcessPool:
            self._process.join()  # it may have died since the last call, too
            self.close(kill=True)
            died = WorkerKilled if self._process.exitcode == -signal.SIGKILL else WorkerDied
            raise died(f"{target}: its process died; last words: {self._last_words()}") from None
        except TimeoutError:
            if answer.done():  # the function's own
                raise
            self.close(kill=True)
            raise WorkerTimedOut(f"{target}: no answer within {timeout:.0f} s; its process was killed") from None
        except KeyboardInterrupt:
            self.close(kill=True)
            raise

    def _wait_for(self, answer: Future, timeout: float | None) -> None:
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while not answer.done() and time.monotonic() < deadline:
            self._on_wait()
            wait([answer], max(0.0, min(SECONDS_BETWEEN_SIGNS, deadline - time.monotonic())))

    def close(self, kill: bool = False) -> None:
        """End the process; `kill` does not wait for what it is doing."""
        if self._pool is None:
            return
        if kill:
            for process in list((self._pool._processes or {}).values()):
                process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def said(self) -> str:
        """What the present process, or the last one, has printed."""
        return self._log.read_bytes()[self._log_began_at :].decode("utf-8", "replace")

    def _last_words(self) -> str:
        lines = self.said().strip().splitlines()
        return lines[-1][:300] if lines else "none"


def _prepare(log: str) -> None:
    """In the worker: output to its log, Ctrl-C left to the parent, and no life without the parent."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _invoke(target: str, arguments: dict) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(**arguments)
