"""The whole command on a real terminal: started, killed in its training, continued, stopped and finished.

Three sizes, one run. It has Prefect's pages, whose threads write to the same terminal, until it is interrupted, and
none afterwards. The screens are what a person would see: a terminal emulator (pyte) renders what is written.
"""

import errno
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import pyte
import pytest

from tests.conftest import free_port

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = """\
model: {preset: modern, n_layer: 2, n_head: 2, n_embd: 32, block_size: 32, dropout: 0.1}
training: {batch_size: 8, gradient_accumulation: 2, max_iters: 600, warmup_iters: 10, eval_interval: 60,
           sample_interval: 150, checkpoint_interval: 25, log_interval: 5, learning_rate: 0.01}
data: {tokenizer: char}
device: {type: cpu, mixed_precision: false, threads: 1}
"""
PHASES = ("Environment", "Implementation", "Configuration", "Dataset", "Training", "Evaluation", "Deployment",
          "Documentation")  # fmt: skip
# Makes the terminal its own, so that Ctrl-C is a signal, and becomes the command. A preexec_fn would do so between fork
# and exec, where a lock that another thread held at that moment is held for ever, and this process waits for it.
ON_THE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
PATIENCE = 300.0  # seconds, on a busy machine
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("on_a_terminal")]


class TerminalOf:
    """A process on a pseudo-terminal of its own, with a screen of so many columns and rows."""

    def __init__(self, command: list[str], columns: int, rows: int, **environment: str) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=1.0)
        self._stream = pyte.ByteStream(self.screen)
        self._lock = threading.Lock()
        self._master, slave = pty.openpty()
        self._set_size(columns, rows)
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_THE_TERMINAL, *command], cwd=CHECKOUT,
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**inherited, "TERM": "xterm-256color", "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1",
                 **environment},
        )  # fmt: skip
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                written = os.read(self._master, 65536)
            except OSError as error:
                if error.errno == errno.EIO:  # nobody has the other end any more
                    return
                raise
            if not written:
                return
            with self._lock:
                self._stream.feed(written)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        with self._lock:
            self.screen.resize(rows, columns)
            self._set_size(columns, rows)  # the kernel sends SIGWINCH

    def lines(self) -> list[str]:
        with self._lock:
            return [line.rstrip() for line in self.screen.display]

    def picture(self) -> str:
        return "\n".join(self.lines()).rstrip()

    def past(self) -> str:
        """What has scrolled off the top."""
        with self._lock:
            rows = [
                "".join(row[column].data for column in range(self.screen.columns)) for row in self.screen.history.top
            ]
        return "\n".join(row.rstrip() for row in rows)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come:\n{self.picture()}"
            assert self.process.poll() is None or condition(), f"{what} did not come:\n{self.past()}\n{self.picture()}"
            time.sleep(0.05)

    def wait(self) -> int:
        code = self.process.wait(PATIENCE)
        self._reader.join(10)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(10)
        os.close(self._master)


class Story:
    """What a person saw at each moment, of one run."""

    def __init__(self, folder: Path) -> None:
        self.workspace = folder / "workspace"
        (folder / "small.yaml").write_text(SMALL)
        (folder / "text.txt").write_text("\n\n".join(topics[name] for name in sorted(topics))[:60_000])
        self.command = [
            sys.executable, "-m", "flows.full_run", "--no-bootstrap", "--workspace", str(self.workspace),
            "--config", str(folder / "small.yaml"), "--data", str(folder / "text.txt"), "--budget", "9m",
            "--set", "tests=false", "--set", "milestones=false", "--set", f"port={free_port()}",
        ]  # fmt: skip
        self.screens: dict[str, list[str]] = {}
        self.codes: dict[str, int] = {}
        self.past, self.hidden_cursor = "", True

    def start(self, columns: int, rows: int, *options: str) -> TerminalOf:
        return TerminalOf([*self.command, *options], columns, rows)

    def keep(self, moment: str, terminal: TerminalOf) -> None:
        self.screens[moment] = terminal.lines()


def in_training(terminal: TerminalOf) -> bool:
    return re.search(r"step [1-9]\d*/600", terminal.picture()) is not None and "loss " in terminal.picture()


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Iterator[Story]:
    """Killed at 80 x 24, resized and interrupted from 120 x 40, finished without pages at 40 x 20."""
    story = Story(tmp_path_factory.mktemp("terminal"))
    first = story.start(80, 24)
    first.wait_for(lambda: "▶ 1 Environment" in first.picture(), "the first phase")
    story.keep("begun", first)
    first.wait_for(lambda: in_training(first), "the training")
    story.keep("training", first)
    first.process.kill()
    story.codes["killed"] = first.wait()
    story.hidden_cursor = first.screen.cursor.hidden
    first.close()

    second = story.start(120, 40)
    second.wait_for(lambda: in_training(second), "the training again")
    story.keep("resumed", second)
    second.resize(60, 30)
    smaller = re.compile("1 Environment .* 4 of 4 kept")  # the larger one says "4 of 4 steps kept"
    second.wait_for(lambda: smaller.search(second.picture()) and in_training(second), "the smaller table")
    story.keep("resized", second)
    second.type(b"\x03")
    story.codes["interrupted"] = second.wait()
    story.keep("interrupted", second)
    second.close()
    home = str(story.workspace / "state/.prefect")
    subprocess.run([sys.executable, "-m", "flows.prefect_server", "stop", home], cwd=CHECKOUT, check=True)

    third = story.start(40, 20, "--no-ui")
    third.wait_for(lambda: in_training(third), "the training once more")
    story.keep("narrow", third)
    story.codes["finished"] = third.wait()
    story.past = third.past()
    shown = [*story.past.splitlines(), *third.lines()]
    table = max(number for number, line in enumerate(shown) if re.match(".? ?1 Environment", line))
    story.screens["finished"] = shown[table:]  # on so few rows the last words push the table off the screen
    third.close()
    yield story
    for moment, lines in story.screens.items():  # shown where a test fails
        print(f"--- {moment}", *lines, sep="\n")


def rows_of_phases(lines: list[str]) -> dict[str, str]:
    """Phase -> its line, each exactly once."""
    rows = {}
    for number, phase in enumerate(PHASES, 1):
        (rows[phase],) = [line for line in lines if re.match(rf".? ?{number} {phase}", line)]
    return rows


def test_it_ends_as_it_should(story):
    assert story.codes == {"killed": -signal.SIGKILL, "interrupted": 130, "finished": 0}


def test_no_screen_shows_a_traceback_or_a_broken_table(story):
    for moment, lines in story.screens.items():
        picture = "\n".join(lines)
        assert "Traceback" not in picture and "\x1b" not in picture, moment
        assert len(rows_of_phases(lines)) == len(PHASES), moment  # one table, nothing left of another
    assert "Traceback" not in story.past


@pytest.mark.parametrize(
    ("moment", "marks"),
    [("begun", "▶·······"), ("training", "✓✓✓✓▶···"), ("resumed", "✓✓✓✓▶···"), ("resized", "✓✓✓✓▶···"),
     ("interrupted", "✓✓✓✓‖···"), ("narrow", "✓✓✓✓▶···"), ("finished", "✓✓✓✓✓✓✓✓")],
)  # fmt: skip
def test_marks_and_times_are_there_at_every_size(story, moment, marks):
    for mark, row in zip(marks, rows_of_phases(story.screens[moment]).values(), strict=True):
        assert row.startswith(mark), row
        assert mark == "·" or re.search(r"\d (ms|s)|\d:\d\d", row), row


@pytest.mark.parametrize("moment", ["training", "resumed", "resized", "narrow"])
def test_a_training_shows_the_whole_run_and_itself(story, moment):
    picture = "\n".join(story.screens[moment])
    assert re.search(r"━.* \d+ %  \d+:\d\d left", picture), picture
    assert "budget 9 min" in picture and "model 1 of 1" in picture and "Train small" in picture
    assert re.search(r"loss \d\.\d+ [↘→↗]", picture), picture


def test_a_resumed_run_shows_what_it_kept(story):
    assert re.search(r"1 Environment .* 4 of 4 steps kept", "\n".join(story.screens["resumed"]))
    assert re.search(r"1 Environment .* 4 of 4 kept", "\n".join(story.screens["resized"]))


def test_the_farewell_says_how_to_continue(story):
    lines = story.screens["interrupted"]
    last = next(index for index, line in enumerate(lines) if line.startswith("Stopped."))
    farewell = "".join(lines[last:])
    assert "continue with:" in farewell and "-m flows.full_run" in farewell and str(story.workspace) in farewell
    assert any("stopped after" in line for line in lines[:last])


def test_the_end_says_where_the_report_is(story):
    written = "".join(story.screens["finished"])
    assert "done after" in story.past.replace("\n", "") + written
    assert str(story.workspace / "reports/default/training_report.html") in written
    assert "It writes (temperature 0.8):" in written and "Goals reached: " in written and "nanogpt chat " in written


def test_the_terminal_is_given_back(story):
    """A run that is killed must not leave it without a cursor."""
    assert not story.hidden_cursor
