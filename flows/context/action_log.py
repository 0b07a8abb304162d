"""What a run did and when, line by line, in a file that people read."""

import os
import sys
import threading
from datetime import datetime
from pathlib import Path

from nanogpt import durable
from nanogpt.printable import printable


class ActionLog:
    """Lines `2026-11-20 23:50:12.345 INFO  message`, appended by any thread of any session of a run.

    The file is opened for each line, so a person may move it away during a run; a link in its place is set aside. A
    disk that takes no more does not stop the run: the first such line goes to stderr, and no part of one stays in the
    file.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._lock = threading.Lock()
        self._trouble: int | None = None  # the error of the last line, which is reported once

    def write(self, message: str, level: str = "info") -> None:
        """Append a line; further lines of `message` are indented below it."""
        time = datetime.now().isoformat(sep=" ", timespec="milliseconds")
        text = printable("\n    ".join(message.splitlines()))  # the name of a file may hold commands to a terminal
        line = f"{time} {level.upper():<5} {text}\n".encode()
        with self._lock:
            try:
                durable.make_parents(self.path)
                self._append(line)
                self._trouble = None
            except OSError as error:
                if error.errno != self._trouble:
                    print(f"{self.path}: {error.strerror}: {line.decode().rstrip()}", file=sys.stderr)
                self._trouble = error.errno

    def _append(self, line: bytes) -> None:
        with open(durable.open_to_append(self.path), "a+b", buffering=0) as file:
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a session was killed within its last line
                    line = b"\n" + line
            before = file.seek(0, os.SEEK_END)
            try:
                while line:
                    line = line[file.write(line) :]
            except OSError:
                file.truncate(before)
                raise
