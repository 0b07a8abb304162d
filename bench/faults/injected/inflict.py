"""What happens to the victim."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import time

import wordings

KEPT: list = []  # what an exhausting fault holds until the process ends
PTHREAD_MUTEX_BYTES = 64  # 40 on Linux, 64 on macOS


def inflict(words: dict) -> None:
    """Do to this process what the fault says."""
    DEEDS[words["what"]](words)


def raise_error(words: dict) -> None:
    raise wordings.error(words)


def abort(words: dict) -> None:
    """As a failed assertion of a C library ends a process."""
    say(words.get("says", wordings.ASSERTION))
    os.abort()


def print_line(words: dict) -> None:
    say(words.get("says", wordings.COMMAND_BUFFER))


def say(text: str) -> None:
    """Straight to the descriptor, as C does, past Python's sys.stderr."""
    os.write(2, (text if text.endswith("\n") else f"{text}\n").encode())


def hang(words: dict) -> None:
    how = words.get("how", "waiting")
    if how == "asleep":
        until = time.monotonic() + words.get("seconds", math.inf)
        while time.monotonic() < until:
            time.sleep(0.2)
        return
    library = (ctypes.PyDLL if how == "holding" else ctypes.CDLL)(None)
    mutex = ctypes.create_string_buffer(PTHREAD_MUTEX_BYTES)
    library.pthread_mutex_init(mutex, None)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)  # a second time: for ever


def send_signal(words: dict) -> None:
    os.kill(os.getpid(), getattr(signal, words.get("signal", "SIGKILL")))
    time.sleep(1)  # it may need a moment to arrive


def leave(words: dict) -> None:
    os._exit(words.get("code", 1))


def exhaust(words: dict) -> None:
    if words.get("of", "memory") == "files":
        while True:
            KEPT.append(os.open(os.devnull, os.O_RDONLY))  # OSError 24 at last
    piece = 16 * 2**20
    for _ in range(words["bytes"] // piece):
        KEPT.append(b"\1" * piece)  # written, so that it is really taken


def break_compiler(torch) -> None:
    """torch.compile gives something whose first call fails as a compiler does."""

    def compile(model=None, **_):
        def fails(*args, **kwargs):
            raise RuntimeError("backend='inductor' raised:\nCppCompileError: C++ compile error")

        return fails

    torch.compile = compile


DEEDS = {
    "raise": raise_error, "abort": abort, "print": print_line, "hang": hang, "signal": send_signal, "exit": leave,
    "exhaust": exhaust,
}  # fmt: skip

if sys.platform == "win32":
    raise ImportError("faults are inflicted on Linux and macOS alone")
