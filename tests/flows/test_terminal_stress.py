"""A live terminal under stress: messages from many threads, and one that takes nothing more."""

import fcntl
import itertools
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
MESSAGES, THREADS = 5_000, 4
TALKING = f"""
import sys, threading
from rich.console import Console
from flows.display.plain import PlainDisplay
from flows.display.protocol import TrainingProgress
from flows.display.terminal import OnTerminal, Terminal

terminal = Terminal(Console(), ["1 Environment", "5 Training"], "run x")
display = OnTerminal(PlainDisplay(), terminal, print)

def talk(number):
    for count in range({MESSAGES // THREADS}):
        display.note(f"message {{number}}-{{count}}.", "warning" if count % 7 == 0 else "info")
        display.progress(TrainingProgress("small", count, 5000, loss=4.0 - count / 5000))
        if count % 50 == 0:
            display.step(f"Step {{number}}", lambda: None)
            print(f"stray {{number}}-{{count}}.", file=sys.stderr)

def work():
    threads = [threading.Thread(target=talk, args=(number,)) for number in range({THREADS})]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

display.phase("5 Training", work)
terminal.close()
print("all said.")
"""


class Pty:
    """A process on a pseudo-terminal of its own, and all that it writes there."""

    def __init__(self, code: str):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen([sys.executable, "-c", code], cwd=CHECKOUT, stdin=slave, stdout=slave,
                                        stderr=slave, env={**os.environ, "TERM": "xterm-256color"})  # fmt: skip
        os.close(slave)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds: float, sizes: Iterable[tuple[int, int]] = ()) -> bytes:
        """All that is written until the process has ended, or for so long; meanwhile the terminal takes the `sizes`."""
        said, deadline, sizes = b"", time.monotonic() + seconds, iter(sizes)
        while time.monotonic() < deadline:
            if size := next(sizes, None):
                self.resize(*size)
            if not select.select([self.master], [], [], 0.2)[0]:
                if self.process.poll() is not None:
                    break
                continue
            try:
                said += os.read(self.master, 65536)
            except OSError:  # the other end is closed
                break
        return said

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


SIZES = [(120, 40), (40, 20), (80, 24), (10, 3), (200, 60)]


@pytest.mark.parametrize("sizes", [[], itertools.cycle(SIZES)], ids=["one size", "many sizes"])
def test_thousands_of_messages_from_four_threads_all_arrive(sizes):
    terminal = Pty(TALKING)
    terminal.resize(80, 24)
    try:
        said = re.sub(r"\s", "", terminal.read(120, sizes).decode())  # a narrow terminal breaks words
        assert "allsaid." in said
        missing = [f"message{number}-{count}." for number in range(THREADS) for count in range(MESSAGES // THREADS)
                   if f"message{number}-{count}." not in said]  # fmt: skip
        assert missing == []
        assert "stray3-1200." in said
    finally:
        terminal.close()


def test_a_terminal_that_takes_nothing_more_holds_up_nobody(tmp_path):
    done = tmp_path / "done"
    code = TALKING.replace("terminal.close()", f"open({str(done)!r}, 'w').close(); terminal.close()")
    terminal = Pty(code)  # nobody reads: the pseudo-terminal is full after a few thousand characters
    try:
        deadline = time.monotonic() + 60
        while not done.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert done.exists()
        assert "all said." in terminal.read(60).decode()  # read again, everything still comes
    finally:
        terminal.close()
