"""The piped form says each event in a line; the live form draws the phases."""

import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from flows.display.plain import PlainDisplay
from flows.display.protocol import TrainingProgress
from flows.display.terminal import OnTerminal, Terminal

pytestmark = pytest.mark.fast
PHASES = ["1 Environment", "2 Dataset", "3 Training"]


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
        return display.step("Compute", lambda: 7)

    assert display.phase("1 Environment", environment) == 7
    display.note("[bold] out of memory: micro-batch 12 -> 6, and a long line that must not be wrapped", "warning")
    assert lines() == [
        "1 Environment",
        "  Make the folders: kept (finished 2026-11-20 23:50)",
        "  Compute ...",
        "  Compute: done in T",
        "1 Environment: done in T, 1 of 2 steps kept",
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
    terminal = Terminal(console, PHASES, "run x", time_left=lambda: 90.0)
    display = OnTerminal(PlainDisplay(), terminal, print)
    display.phase("1 Environment", lambda: display.step_kept("Make the folders", "unchanged"))

    def dataset():
        display.start_in_background("Fetch the text", lambda: None).result()
        display.progress(TrainingProgress("small", 1200, 2000, loss=1.62))

    display.phase("2 Dataset", dataset)
    terminal.close()
    output.flush()
    picture = output.buffer.getvalue().decode(encoding)
    last = picture[picture.rindex("run x") :]
    assert "1 min 30 s of the budget left" in last
    assert all(label in last for label in PHASES)
    assert "1 of 1 steps kept" in last


def test_the_live_table_shows_the_running_step_and_its_progress():
    output = io.StringIO()
    terminal = Terminal(Console(file=output, force_terminal=False, width=100), PHASES, "run x")
    terminal.phase_started("3 Training")
    terminal.step_started("Train small_model")
    terminal.progress("step 1200  loss 1.62")
    picture = io.StringIO()
    Console(file=picture, width=100).print(terminal)
    assert "Train small_model" in picture.getvalue() and "step 1200  loss 1.62" in picture.getvalue()
