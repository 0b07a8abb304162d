"""A training process stops when it is asked to, and never outlives the process that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED_AFTER_SAVING = 143  # what a shell shows for SIGTERM
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_SAVE = 60.0  # after which an orphan that is stuck ends the hard way
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class StepDropped(Exception):
    """Raised in the middle of a step: what is under way is dropped, and everything is as before the step."""


class StopRequested(StepDropped):
    """Somebody asked the training to stop."""


class OutOfTime(StepDropped):
    """The training's time has passed."""


class StopRequest:
    """Somebody wants the training to stop: by SIGTERM, SIGINT, SIGHUP or the parent's death.

    It stops between two passes; in the middle of work that is interruptible(), at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._may_raise = False

    def listen(self) -> None:
        """Take SIGTERM, SIGINT and a closed terminal as requests to stop; under nohup, training outlives its terminal.

        Main thread only.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._handle)

    def check(self) -> None:
        """Raise StopRequested if there was such a request."""
        if self.requested:
            raise StopRequested

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Work that takes long and changes nothing: a request ends it at once, by StopRequested."""
        self._may_raise = True
        try:
            self.check()
            yield
        finally:
            self._may_raise = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self._may_raise:
            self._may_raise = False
            raise StopRequested


def end_with(parent: int | None) -> None:
    """Send this process SIGTERM when process `parent` is gone, and end it if it has not saved and left a minute later.

    Linux's kernel does it at once (PR_SET_PDEATHSIG); a thread that looks at getppid() does it everywhere, also when
    the parent was gone before this was called. None: this process stands on its own.
    """
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_SAVE)
    os._exit(STOPPED_AFTER_SAVING)
