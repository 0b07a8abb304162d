"""A signal that ends a run as Ctrl-C does, and is not lost where a library swallows its KeyboardInterrupt."""

from __future__ import annotations

import threading

from nanogpt import interrupts

_asked = threading.Event()  # by a signal: where its KeyboardInterrupt arrives, no further step asks


def interrupt(number: int, frame: object) -> None:
    """A signal's handler: ends a run as Ctrl-C does: save, stop, say how to continue."""
    _asked.set()
    raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt, once, after a signal whose own was lost: one that came while C code called back into
    Python (pydantic's serializers, seen) is only printed, as "Exception ignored". Main thread only."""
    if _asked.is_set() and threading.current_thread() is threading.main_thread():
        _asked.clear()
        raise KeyboardInterrupt


def forget() -> None:
    """The run that was asked to stop has ended, and its exit code is its own."""
    _asked.clear()
    interrupts.forget()
