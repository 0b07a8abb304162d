"""The piped form says each event in a line; the live form draws the phases."""

import io
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from rich.console import Console

from flows.display.live_table import Picture
from flows.display.plain import PlainDisplay
from flows.display.protocol import LeftOut, TrainingProgress
from flows.display.terminal import OnTerminal, Terminal

pytestmark = pytest.mark.fast
PHASES = ["1 Environment", "2 Dataset", "3 Training"]


@dataclass
class Budget:
    spent: float
    left: float


class Blocked(Exception):
    shown_as = "Blocked"


def piped() -> tuple[OnTerminal, Callable[[], list[str]]]:
    """A display, and what was printed, without times of day and durations, when it is closed."""
    output = io.StringIO()
    terminal = Terminal(Console(file=output, width=40), PHASES, "run x")

    def lines() -> list[str]:
        terminal.close()
        assert "\x1b" not in output.getvalue()
        return [re.sub(r"\d+(\.\d+)? (ms|s)\b", "T", line[9:]) for line in output.getvalue().splitlines()]

    return OnTerminal(PlainDisplay(), terminal, print), lines


def test_each_event_is_a_line():
    display, lines = piped()

    def environment():
        display.step_kept("Make the folders", "finished 2026-11-20 23:50")
        display.step("Make it smaller", lambda: LeftOut("the run is late"))
        return display.step("Compute", lambda: 7)

    assert display.phase("1 Environment", environment) == 7
    display.note("[bold] out of memory: micro-batch 12 -> 6, and a long line that must not be wrapped", "warning")
    assert lines() == [
        "1 Environment",
        "  Make the folders: kept (finished 2026-11-20 23:50)",
        "  Make it smaller ...",
        "  Make it smaller: left out: the run is late",
        "  Compute ...",
        "  Compute: done in T",
        "1 Environment: done in T, 1 of 3 steps kept",
        "warning: [bold] out of memory: micro-batch 12 -> 6, and a long line that must not be wrapped",
    ]


def test_failures_say_what_and_why_and_go_through():
    display, lines = piped()
    with pytest.raises(ZeroDivisionError):
        display.phase("2 Dataset", lambda: display.step("Divide", lambda: 1 / 0))

    def blocked():
        raise Blocked("dataset has not finished")

    with pytest.raises(Blocked):
        display.phase("3 Training", blocked)
    assert lines()[2:] == [
        "  Divide: failed: ZeroDivisionError: division by zero",
        "2 Dataset: failed: ZeroDivisionError: division by zero",
        "3 Training",
        "3 Training: blocked: dataset has not finished",
    ]


def test_an_interrupted_phase_is_stopped_not_failed():
    display, lines = piped()

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        display.phase("3 Training", lambda: display.step("Train", interrupted))
    assert lines()[-2:] == ["  Train: stopped by a person", "3 Training: stopped"]


def test_what_cannot_be_shown_fails_nothing_and_is_told_once():
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError("no such terminal")

    said: list[str] = []
    terminal = Terminal(Console(file=Gone()), PHASES, "run x", log=said.append)
    display = OnTerminal(PlainDisplay(), terminal, said.append)
    assert display.phase("1 Environment", lambda: display.step("Compute", lambda: display.note("half") or 7)) == 7
    terminal.close()
    assert said == ["the run cannot be shown: OSError: no such terminal"]


def test_progress_in_a_pipe_is_not_a_flood():
    display, lines = piped()
    for step in range(1000):
        display.progress(TrainingProgress("small", step, 1000))
    assert lines() == ["    small step 0/1,000"]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_sees_the_phases_in_any_encoding(encoding):
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=output, force_terminal=True, width=80, height=20, _environ={"TERM": "xterm"})
    terminal = Terminal(console, PHASES, "run x", Budget(10.0, 90.0))
    display = OnTerminal(PlainDisplay(), terminal, print)
    display.phase("1 Environment", lambda: display.step_kept("Make the folders", "unchanged"))

    def dataset():
        display.start_in_background("Fetch the text", lambda: None).result()
        display.note("Größe: 1 → 2", "warning")
        display.progress(TrainingProgress("small", 1200, 2000, loss=1.62))

    display.phase("2 Dataset", dataset)
    terminal.close()
    output.flush()
    picture = output.buffer.getvalue().decode(encoding)
    assert ("Größe: 1 → 2" if encoding == "utf-8" else r"Gr\xf6\xdfe: 1 \u2192 2") in picture
    last = picture[picture.rindex("run x") :]
    assert "done after" in last and "1 of 1 steps kept" in last
    assert all(label in last for label in PHASES)


def test_a_dumb_terminal_gets_lines():
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80, _environ={"TERM": "dumb"})
    terminal = Terminal(console, PHASES, "run x")
    OnTerminal(PlainDisplay(), terminal, print).phase("1 Environment", lambda: None)
    terminal.close()
    assert [line[9:] for line in output.getvalue().splitlines()] == ["1 Environment", "1 Environment: done in 0 ms"]


HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\x9b31md\u202ee\rf\x00"


@pytest.mark.parametrize("is_live", [True, False])
def test_control_characters_never_reach_the_terminal(is_live):
    """A message, a name or a sample of a model's text may hold commands to the terminal."""
    output = io.StringIO()
    console = Console(
        file=output, force_terminal=is_live, width=200, height=30, _environ={"TERM": "xterm", "NO_COLOR": "1"}
    )
    terminal = Terminal(console, [HOSTILE], HOSTILE)
    display = OnTerminal(PlainDisplay(), terminal, print)

    def phase():
        display.step_kept(HOSTILE, HOSTILE)
        display.note(HOSTILE)
        display.progress(TrainingProgress(HOSTILE, 1, 2, loss=1.0, activity=HOSTILE))
        print(HOSTILE)
        display.step(HOSTILE, lambda: None)
        raise ValueError(HOSTILE)

    with pytest.raises(ValueError):
        display.phase(HOSTILE, phase)
    terminal.close()
    said = output.getvalue()
    assert r"\x1b]0;title\x07b\x1b[2J" in said
    assert not any(character in said for character in "\x07\x9b\u202e\x00")
    ours = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)  # styles and movements of the table itself
    assert "\x1b" not in ours and ("\x1b" not in said or is_live)


def test_a_progress_bar_of_other_code_is_one_line():
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80, height=20, _environ={"TERM": "xterm"})
    terminal = Terminal(console, PHASES, "run x")
    for percent in range(101):
        print(f"\r{percent}%", end="", file=sys.stderr)
    print("\nhalf", end="")
    terminal.close()
    assert "100%" in output.getvalue() and "99%" not in output.getvalue() and "half" in output.getvalue()


def test_a_table_that_cannot_be_drawn_costs_no_message(monkeypatch):
    monkeypatch.setattr(Picture, "lines", lambda *_: 1 / 0)
    output, said = io.StringIO(), []
    console = Console(file=output, force_terminal=True, width=80, height=20, _environ={"TERM": "xterm"})
    terminal = Terminal(console, PHASES, "run x", log=said.append)
    terminal.message("a message")
    terminal.close()
    assert "a message" in output.getvalue()
    assert said == ["the run cannot be shown: ZeroDivisionError: division by zero"]


def test_a_terminal_that_changes_its_size_is_painted_anew_with_the_latest_messages():
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, height=40, _environ={"TERM": "xterm"})
    terminal = Terminal(console, PHASES, "run x", Budget(10.0, 90.0))
    terminal.message("before the change")
    wait_until(lambda: "before the change" in output.getvalue())
    console.size = (40, 20)
    wait_until(lambda: output.getvalue().count("before the change") == 2)
    terminal.close()
    cleared = output.getvalue().rpartition("\x1b[2J")[2]
    assert "before the change" in cleared
    assert max(map(len, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", cleared).splitlines())) <= 40


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()
