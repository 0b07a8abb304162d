"""What is typed: texts of one line and of many, through a pipe, and what ends the asking."""

import io
import os
import signal
import sys

import pytest

from nanogpt.commands.typed import InterruptNoticed, Typed, history_file, note, rest_of_stdin
from nanogpt.faults import UserError

pytestmark = pytest.mark.fast


@pytest.fixture
def asked(monkeypatch):
    """The texts that come of what a pipe gives."""

    def ask(given: str) -> list[str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        texts = []
        with Typed() as typed:
            typed.each(lambda: "> ", texts.append)
        return texts

    return ask


@pytest.mark.parametrize(
    "given, texts",
    [
        ("one\ntwo", ["one", "two"]),
        ("one \\\nand more\\\n\nnext\n", ["one \nand more\n", "next"]),
        ('"""one\n\n two \\\n"""\nnext', ["one\n\n two \\", "next"]),
        ('"""one"""\n', ["one"]),
        ('"""\none\ntwo"""', ["one\ntwo"]),
        ("\n", [""]),
        ("", []),
        ("cut \\", ["cut \n"]),
        ('"""cut\nhere', ["cut\nhere"]),
    ],
)
def test_a_text_may_have_many_lines(asked, given, texts, capsys):
    assert asked(given) == texts
    assert capsys.readouterr().out.startswith("> ")


def test_a_pipe_is_shown_as_if_it_were_typed(asked, capsys):
    asked("one\ntwo \\\nlines\n")
    assert capsys.readouterr().out == "> one\n> two \\\n... lines\n> \n"


def test_a_mistake_is_a_note_and_the_next_text_is_taken(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("bad\ngood\n"))
    taken = []

    def take(text: str) -> None:
        if text == "bad":
            raise UserError("that is bad")
        taken.append(text)

    Typed().each(lambda: "", take)
    assert taken == ["good"] and capsys.readouterr().err == "that is bad\n"


def test_bytes_that_are_no_text_are_named(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff"), encoding="utf-8"))
    with pytest.raises(UserError, match="standard input: byte 3 is not text in UTF-8"):
        rest_of_stdin()


def test_the_first_interrupt_is_noticed_and_the_second_is_one():
    with pytest.raises(KeyboardInterrupt), InterruptNoticed() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.came
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_history_is_the_user_s_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file("chat") == tmp_path / "nanogpt/chat"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_file("chat") == tmp_path / ".local/state/nanogpt/chat"


def test_a_note_fits_the_narrowest_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    note("ab c")
    assert capsys.readouterr().err == "a\nb\nc\n"
