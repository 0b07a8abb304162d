"""A terminal that is closed under a run: the run continues without it, or saves and stops, as --on-hangup says.

Closing a terminal does two things to a run in it. SIGHUP, once or twice, to it and its children, which ends whoever
does not handle it; and every later write to the terminal fails with EIO. (A reader of a pipe that ends, as in `| head`,
does only the second, with EPIPE.)
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TextIO

from flows.context import stop_signal

GONE = (errno.EIO, errno.EPIPE, errno.ENXIO)


class LastingOutput:
    """A text stream that drops what it is given, instead of failing, once its reader has gone."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            if error.errno in GONE:
                self._send_to_nowhere()  # else what is still buffered fails once more when Python ends

    def _send_to_nowhere(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Nothing that is printed can end the run."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(LastingOutput, before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before


def handle_hangup(wanted: str, report: Callable[[], None]) -> AbstractContextManager[None]:
    """SIGHUP does what is `wanted`: "continue" (`report` is called once) or "save" (KeyboardInterrupt, as Ctrl-C).

    Whoever started the run with nohup has SIGHUP ignored, and it stays so.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return nullcontext()
    return _outlived(report) if wanted == "continue" else _interrupts()


@contextmanager
def _interrupts() -> Iterator[None]:
    """The first SIGHUP interrupts. Another is of the same hangup, not a person who insists: saving continues."""

    def once(number: int, frame: object) -> None:
        signal.signal(number, lambda number, frame: None)
        stop_signal.interrupt(number, frame)

    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # a run within a run inherits it blocked
    handler = signal.signal(signal.SIGHUP, once)
    try:
        yield
    finally:
        stop_signal.forget()
        signal.signal(signal.SIGHUP, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _outlived(report: Callable[[], None]) -> Iterator[None]:
    """A hangup does not stop this process or any child started meanwhile; `report` is called once when it comes.

    The signal is blocked, which children inherit, and waited for by a thread, which may do whatever a handler may not.
    Main thread only.
    """
    closing, released = threading.Event(), threading.Event()

    def listen() -> None:
        reported = False
        while not closing.is_set():
            signal.sigwait({signal.SIGHUP})
            if not closing.is_set() and not reported:
                reported = True
                report()
        released.wait()  # alive while main may still signal it

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    listener = threading.Thread(target=listen, name="hangup", daemon=True)
    listener.start()
    thread_id = listener.ident or 0  # known once it has started
    # A thread older than the mask, a numeric library's, may be given the signal: it is passed on.
    handler = signal.signal(signal.SIGHUP, lambda number, frame: signal.pthread_kill(thread_id, number))
    try:
        yield
    finally:
        closing.set()
        signal.pthread_kill(thread_id, signal.SIGHUP)
        released.set()
        listener.join()
        # Drops the second of one hangup, which would end this process after all. To wait for one that is pending
        # might be for ever: a thread older than the mask can be given it first.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
