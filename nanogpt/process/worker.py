"""A process of its own for calls that may crash, hang or exhaust memory, so that whoever makes them never does.

The caller stays free of torch: functions are named by text ("nanogpt.study.component_checks:run_checks") and imported
in the worker only.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from nanogpt import durable, faults
from nanogpt.process.endings import ABORTED, CRASHED, KILLED, STALL, Death, ProcessLog, death_by_signal
from nanogpt.process.memory_pressure import MemoryPressure

SECONDS_BETWEEN_LOOKS = 0.25
SECONDS_TO_END = 5.0
SECONDS_TO_BE_GONE = 60.0  # after it let go of the pipe: a device's memory is freed in that time
ONCE_MORE = 2  # times that a call is made again whose process was killed, or aborted on the CPU


class WorkerDied(Exception):
    """The worker ended without an answer: `symptom` is one of nanogpt.faults or nanogpt.process.endings."""

    def __init__(self, message: str, symptom: str):
        super().__init__(message)
        self.symptom = symptom


class Worker:
    """One child process, started by `start` or the first call and again after a death; `close` frees its memory.

    It is asked through a pipe, and nothing here waits for a thread or a lock of the two: concurrent.futures does, and a
    death or Ctrl-C at an unlucky moment leaves it waiting for ever (Python 3.11).

    A call is made again where its process was killed, or aborted on the CPU, and nothing speaks for memory: `on_death`
    gets the death and the seconds that it cost. `on_wait` is called every moment while an answer is waited for.
    """

    def __init__(
        self,
        log: Path,
        on_death: Callable[[Death, float], None] = lambda death, seconds: None,
        on_wait: Callable[[], None] = lambda: None,
    ):
        self._log_file = log
        self._on_death, self._on_wait = on_death, on_wait
        self._log: ProcessLog | None = None
        self._pressure = MemoryPressure()
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._one_call = threading.RLock()  # `on_wait` may close it

    def start(self, module: str) -> None:
        """Start the process, which imports `module` while the caller does something else."""
        with contextlib.suppress(_GoneError, OSError):  # the first call knows what to make of that
            self._ask(module, None)

    def call(self, target: str, *, timeout: float | None = None, **arguments: Any) -> Any:
        """The picklable result of `module:function`(**arguments), run in the worker.

        An argument `device`, or `asked`, says what the function computes on: an abort on an accelerator is the
        accelerator's. Raises what the function raises, or the cause of that, whichever says what went wrong; WorkerDied
        when the process ends or outlasts `timeout` seconds.
        """
        tries_left = ONCE_MORE
        while True:
            began = time.monotonic()
            try:
                return self._call(target, timeout, arguments)
            except WorkerDied as error:
                if error.symptom not in (KILLED, ABORTED) or tries_left == 0:
                    raise
                tries_left -= 1
                self._on_death(Death(error.symptom, str(error)), time.monotonic() - began)

    def _call(self, target: str, timeout: float | None, arguments: dict[str, Any]) -> Any:
        with self._one_call:
            self._pressure = MemoryPressure()  # what ran out during another call says nothing of this one
            try:
                has_worked, answer = self._answer(self._ask(target, arguments), timeout)
            except _GoneError:
                death = self._death(arguments.get("device") or arguments.get("asked") or "cpu")
                self.close(kill=True)
                raise WorkerDied(f"{target}: {death.evidence}", death.symptom) from None
            except _LateError:
                self.close(kill=True)
                raise WorkerDied(f"{target}: no answer within {timeout:.0f} s; its process was killed", STALL) from None
            except BaseException:  # Ctrl-C, or of `on_wait`: its answer is never to be taken for the next call's
                self.close(kill=True)
                raise
        if has_worked:
            return answer
        raise answer

    def close(self, kill: bool = False) -> None:
        """End the process, after the call that another thread makes; with `kill` at once."""
        with contextlib.nullcontext() if kill else self._one_call:
            self._end(kill)

    def _end(self, kill: bool) -> None:
        process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        atexit.unregister(self.close)
        if pipe is not None:
            pipe.close()
        if process is None or process.pid is None:  # there is none, or it could not be started
            return
        if not kill:
            process.join(SECONDS_TO_END)
        process.kill()
        process.join(SECONDS_TO_END)  # a device that failed may hold it for ever

    def said(self) -> str:
        """What the present process, or the last one, has printed."""
        return self._log.text() if self._log else ""

    def _ask(self, target: str, arguments: dict[str, Any] | None) -> Connection:
        """Where the answer will come; without arguments `target` is a module to import, and there is none.

        Raises _GoneError, and OSError where no process can be started.
        """
        pipe = self._pipe or self._open()
        try:
            pipe.send((target, arguments))
        except OSError as error:
            raise _GoneError from error
        return pipe

    def _open(self) -> Connection:
        self._log = ProcessLog(self._log_file)
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, str(self._log_file)))
        atexit.register(self.close, kill=True)  # before multiprocessing's own, which waits for its end
        try:
            with theirs, without_main(), quiet_tracker():
                self._process.start()
        except BaseException:
            self.close(kill=True)
            raise
        return self._pipe

    def _answer(self, pipe: Connection, timeout: float | None) -> Any:
        """(True, what the function gave), or (False, what it raised). Raises _GoneError, _LateError."""
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while not _has_come(pipe, max(0.0, min(SECONDS_BETWEEN_LOOKS, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                raise _LateError
            if not self._lives() and not _has_come(pipe, 0.0):  # a child of its own may hold the pipe open
                raise _GoneError
            self._pressure.look()
            self._on_wait()
        try:
            return pipe.recv()
        except (EOFError, OSError) as error:
            raise _GoneError from error

    def _lives(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def _death(self, device: str) -> Death:
        """Why the process is gone; it may have died since the last call, too."""
        if self._process is None or self._log is None:
            return Death(CRASHED, "its process could not be started")
        self._process.join(SECONDS_TO_BE_GONE)
        code = self._process.exitcode
        if code is None:
            return Death(STALL, "its process no longer answers, and does not end")
        if code < 0:
            return death_by_signal(-code, self._pressure, self._log, device)
        return Death(CRASHED, f"its process ended with code {code}; {self._log.last_words()}")


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """A process that is spawned meanwhile does not import the parent's main module (flows.full_run: 0.74 s), which
    multiprocessing has it do for functions that are defined there."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def quiet_tracker() -> Iterator[None]:
    """The resource tracker, which multiprocessing starts with its first process, removes what a killed worker leaves
    (torch.compile makes tqdm's lock) without a warning on the terminal at the end of the run."""
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


class _GoneError(Exception):
    """The process has ended."""


class _LateError(Exception):
    """It has not answered in time."""


def _has_come(pipe: Connection, seconds: float) -> bool:
    """Whether there is an answer within so long, or the end of the process that was to give it."""
    try:
        return pipe.poll(seconds)
    except OSError as error:
        raise _GoneError from error


def _serve(pipe: Connection, log: str) -> None:
    """In the worker: answer, until nobody asks any more."""
    _prepare(log)
    with contextlib.suppress(EOFError, OSError):
        while True:
            target, arguments = pipe.recv()
            if arguments is None:
                with contextlib.suppress(Exception):  # the call that needs it says why
                    importlib.import_module(target)
            else:
                _send(pipe, _outcome(target, arguments))


def _outcome(target: str, arguments: dict[str, Any]) -> tuple[bool, Any]:
    try:
        return True, invoke(target, arguments)
    except BaseException as error:  # a panic of a library in Rust is no Exception, and its class cannot be sent
        sent = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
        sent.add_note(f"In the worker:\n{traceback.format_exc()}")
        return False, sent


def _send(pipe: Connection, outcome: tuple[bool, Any]) -> None:
    try:
        pipe.send(outcome)
    except Exception as error:  # it cannot be sent
        pipe.send((False, sendable(error)))


def _prepare(log: str) -> None:
    """In the worker: output to its log."""
    with contextlib.suppress(OSError):  # a disk that takes nothing more costs the log, not the work
        descriptor = durable.open_to_append(Path(log))
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
    live_with_parent()


def live_with_parent() -> None:
    """In a worker, once: Ctrl-C is left to the parent, no life without the parent, and the first to end for memory."""
    with contextlib.suppress(OSError):  # where memory runs out, Linux is to end this process and none other
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def invoke(target: str, arguments: dict[str, Any]) -> Any:
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)(**arguments)
    except Exception as error:
        if (found := sendable(error)) is error:
            raise
        raise found from None


def sendable(error: Exception) -> BaseException:
    """`error`, or what caused it, as it can be sent to another process, where it says the same on its own.

    Causes are lost on the way, and one that cannot be sent would look like the death of this process.
    """
    symptom = faults.classify(error)
    for cause in faults.causes(error):
        with contextlib.suppress(Exception):
            copy = pickle.loads(pickle.dumps(cause))
            if isinstance(cause, faults.UserError) or faults.classify(copy) == symptom:
                return cause
        if isinstance(cause, OSError) and faults.classify(plain := _plain(cause)) == symptom:
            return plain
    message = f"{type(error).__name__}: {error}"
    return MemoryError(message) if symptom == faults.OUT_OF_MEMORY else RuntimeError(message)


def _plain(error: OSError) -> OSError:
    return OSError(error.errno, error.strerror, error.filename)
