"""What a long command is doing, on stderr: one line that changes on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 10.0  # a minute of silence looks like a hang


@contextmanager
def progress_lines(first: str) -> Iterator[Callable[[str], None]]:
    """Show `first`, then each text that is given to the function that this yields; at the end, clear a terminal's line.

    Elsewhere only the latest text is printed, every ten seconds, with the seconds so far.
    """
    lines = _OnTerminal() if sys.stderr.isatty() else _InPipe()
    lines.show(first)
    try:
        yield lines.show
    finally:
        lines.close()


class _OnTerminal:
    def show(self, text: str) -> None:
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        self.show("")


class _InPipe:
    """A thread prints, because the command may be silent for long."""

    def __init__(self) -> None:
        self._text, self._began = "", time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._print_now_and_then, daemon=True)

    def show(self, text: str) -> None:
        self._text = text
        if not self._thread.is_alive():
            print(text, file=sys.stderr, flush=True)
            self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _print_now_and_then(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN_LINES):
            print(f"{self._text}  ({time.monotonic() - self._began:.0f} s)", file=sys.stderr, flush=True)
