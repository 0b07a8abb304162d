"""Says where the run stands when it makes no progress: a deadlock leaves no other trace."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable

from flows.display.protocol import Level

PATIENCE_SECONDS = 300.0
LOOKS = 20  # within the patience


class Watchdog:
    """Logs the stack of every thread once when nobody calls `beat` for `patience` seconds, and again after the next."""

    def __init__(self, log: Callable[[str, Level], None], patience: float = PATIENCE_SECONDS):
        self._log, self._patience = log, patience
        self._beat_at = time.monotonic()
        self._closing = threading.Event()

    def start(self) -> None:
        """Watch from now on, in a thread."""
        self.beat()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """The run makes progress, or waits for something that it watches itself."""
        self._beat_at = time.monotonic()

    def close(self) -> None:
        self._closing.set()

    def _watch(self) -> None:
        logged_at = None  # the beat after which the silence was logged
        while not self._closing.wait(self._patience / LOOKS):
            beat_at = self._beat_at
            seconds = time.monotonic() - beat_at
            if seconds > self._patience and beat_at != logged_at:
                logged_at = beat_at
                self._log(f"no progress for {seconds:.0f} s; every thread's stack:\n{stacks()}", "error")


def stacks() -> str:
    """Every thread's stack but this one's, the innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"thread {names.get(identity, identity)}\n{''.join(traceback.format_stack(frame)).rstrip()}"
        for identity, frame in sys._current_frames().items() if identity != threading.get_ident()
    )  # fmt: skip
