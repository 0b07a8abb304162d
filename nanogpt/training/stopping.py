"""The ties between a training process and whoever started it: it stops when asked, and never outlives its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STOPPED_AFTER_SAVING = 143  # what a shell shows for SIGTERM
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_SAVE = 60.0  # after which an orphan that is stuck ends the hard way
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class StopRequested(Exception):
    """Raised inside StopRequest.interruptible(): what is under way can be dropped, because it can be repeated."""


class StopRequest:
    """A wish to stop, made by SIGTERM, SIGINT, SIGHUP or the parent's death, heard at the next step boundary."""

    def __init__(self):
        self.requested = False
        self._may_raise = False

    def listen(self) -> None:
        """Take SIGTERM, SIGINT and a closed terminal as the wish to stop; nohup's training outlives its terminal.

        Main thread only.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._heard)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._heard)

    def check(self) -> None:
        """Raise StopRequested if there was such a wish."""
        if self.requested:
            raise StopRequested

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Work that takes long and changes nothing: a wish to stop ends it at once, by StopRequested."""
        self.check()
        self._may_raise = True
        try:
            yield
        finally:
            self._may_raise = False

    def _heard(self, number, frame) -> None:
        self.requested = True
        if self._may_raise:
            self._may_raise = False
            raise StopRequested


def hold(parent: int | None) -> None:
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
