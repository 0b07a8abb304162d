"""What a long command shows on stderr: never silent in a pipe, one clean line on a terminal."""

import sys
import time

import pytest

from nanogpt.commands import progress

pytestmark = pytest.mark.fast


def test_in_a_pipe_a_silent_command_repeats_what_it_does(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.05)
    with progress.progress_lines("loading torch") as show:
        time.sleep(0.3)
        for step in range(1000):
            show(f"step {step}")
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "loading torch" and lines[1].startswith("loading torch  (0 s)")
    assert lines[-1].startswith("step 999  (") and len(lines) < 20
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_the_line_is_cleared_at_the_end(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.progress_lines("loading torch") as show:
        show("step 1")
    assert capsys.readouterr().err == "\rloading torch\x1b[K\rstep 1\x1b[K\r\x1b[K"


def test_it_ends_with_an_error_too(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.05)
    with pytest.raises(ValueError), progress.progress_lines("loading torch"):
        raise ValueError
    time.sleep(0.2)
    assert capsys.readouterr().err == "loading torch\n"
