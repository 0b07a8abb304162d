"""What happens to the victim."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import wordings

Words = dict[str, Any]  # of a fault

KEPT: list[object] = []  # what an exhausting fault holds until the process ends
PTHREAD_MUTEX_BYTES = 64  # 40 on Linux, 64 on macOS


def inflict(words: Words) -> None:
    """Do to this process what the fault says."""
    DEEDS[words["what"]](words)


def raise_error(words: Words) -> None:
    raise wordings.error(words)


def abort(words: Words) -> None:
    """As a failed assertion of a C library ends a process."""
    say(words.get("says", wordings.ASSERTION))
    os.abort()


def print_line(words: Words) -> None:
    say(words.get("says", wordings.COMMAND_BUFFER))


def say(text: str) -> None:
    """Straight to the descriptor, as C does, past Python's sys.stderr."""
    os.write(2, (text if text.endswith("\n") else f"{text}\n").encode())


def hang(words: Words) -> None:
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


def send_signal(words: Words) -> None:
    os.kill(os.getpid(), getattr(signal, words.get("signal", "SIGKILL")))
    time.sleep(1)  # it may need a moment to arrive


def leave(words: Words) -> None:
    os._exit(words.get("code", 1))


def exhaust(words: Words) -> None:
    if words.get("of", "memory") == "files":
        while True:
            KEPT.append(os.open(os.devnull, os.O_RDONLY))  # OSError 24 at last
    piece = 16 * 2**20
    for _ in range(words["bytes"] // piece):
        KEPT.append(b"\1" * piece)  # written, so that it is really taken


def break_compiler(torch: ModuleType) -> None:
    """torch.compile gives something whose first call fails as a compiler does."""

    def compile(model: object = None, **_: object) -> Callable[..., object]:
        def fails(*args: object, **kwargs: object) -> object:
            raise RuntimeError("backend='inductor' raised:\nCppCompileError: C++ compile error")

        return fails

    vars(torch)["compile"] = compile


DEEDS: dict[str, Callable[[Words], None]] = {
    "raise": raise_error, "abort": abort, "print": print_line, "hang": hang, "signal": send_signal, "exit": leave,
    "exhaust": exhaust,
}  # fmt: skip

if sys.platform == "win32":
    raise ImportError("faults are inflicted on Linux and macOS alone")
