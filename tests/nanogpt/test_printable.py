"""What a model wrote cannot command a terminal, and reaches a file as it is."""

import io
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.printable import printable, show

pytestmark = pytest.mark.fast
HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\u202eabc\x9b31m"


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


def shown(text, monkeypatch, raw=False, kind=Terminal, encoding="utf-8") -> bytes:
    out = kind(io.BytesIO(), encoding=encoding, newline="\n")
    monkeypatch.setattr(sys, "stdout", out)
    show(text, raw)
    return out.buffer.getvalue()


@given(st.text())
def test_no_control_character_is_left_but_line_ends_and_tabs(text):
    for encoding in ("utf-8", "ascii", "cp1252"):
        safe = printable(text, encoding)
        assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in safe)
        assert printable(safe, encoding) == safe
        safe.encode(encoding)


def test_ordinary_text_stays():
    assert printable("plain, with\ttabs\nand Größe, 漢字, 😀") == "plain, with\ttabs\nand Größe, 漢字, 😀"


def test_a_terminal_gets_escapes_and_raw_passes_them(monkeypatch):
    written = shown(HOSTILE, monkeypatch)
    assert b"\x1b" not in written and b"\\x1b]0;owned\\x07" in written and b"\\u202e" in written
    assert shown(HOSTILE, monkeypatch, raw=True) == HOSTILE.encode()


def test_a_file_gets_the_text_as_it_is(monkeypatch):
    assert shown(HOSTILE, monkeypatch, kind=io.TextIOWrapper) == HOSTILE.encode()


@pytest.mark.parametrize("kind", [Terminal, io.TextIOWrapper])
def test_an_encoding_without_the_character_is_no_error(monkeypatch, kind):
    assert shown("Größe", monkeypatch, kind=kind, encoding="ascii") == b"Gr\\xf6\\xdfe"
