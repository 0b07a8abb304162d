"""What a model wrote cannot command a terminal, and reaches a file as it is."""

import io
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.export import huggingface
from nanogpt.printable import printable, show
from nanogpt.tokenizers.characters import CharTokenizer
from tests.nanogpt.model_case import randomised, small

CHECKOUT = Path(__file__).parents[2]
HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\u202eabc\x9b31m"


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


def shown(text, monkeypatch, raw=False, kind=Terminal, encoding="utf-8") -> bytes:
    out = kind(io.BytesIO(), encoding=encoding, newline="\n")
    monkeypatch.setattr(sys, "stdout", out)
    show(text, raw)
    return out.buffer.getvalue()


@pytest.mark.fast
@given(st.text())
def test_no_control_character_is_left_but_line_ends_and_tabs(text):
    for encoding in ("utf-8", "ascii", "cp1252"):
        safe = printable(text, encoding)
        assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in safe)
        assert printable(safe, encoding) == safe
        safe.encode(encoding)


@pytest.mark.fast
def test_ordinary_text_stays():
    assert printable("plain, with\ttabs\nand Größe, 漢字, 😀") == "plain, with\ttabs\nand Größe, 漢字, 😀"


@pytest.mark.fast
def test_a_terminal_gets_escapes_and_raw_passes_them(monkeypatch):
    written = shown(HOSTILE, monkeypatch)
    assert b"\x1b" not in written and b"\\x1b]0;owned\\x07" in written and b"\\u202e" in written
    assert shown(HOSTILE, monkeypatch, raw=True) == HOSTILE.encode()


@pytest.mark.fast
def test_a_file_gets_the_text_as_it_is(monkeypatch):
    assert shown(HOSTILE, monkeypatch, kind=io.TextIOWrapper) == HOSTILE.encode()


@pytest.mark.fast
@pytest.mark.parametrize("kind", [Terminal, io.TextIOWrapper])
def test_an_encoding_without_the_character_is_no_error(monkeypatch, kind):
    assert shown("Größe", monkeypatch, kind=kind, encoding="ascii") == b"Gr\\xf6\\xdfe"


@pytest.fixture(scope="module")
def hostile_model(tmp_path_factory) -> Path:
    """An export that writes control characters, and reads what a talk with it needs."""
    folder = tmp_path_factory.mktemp("hostile")
    tokenizer = CharTokenizer("\x1b\x07\x9b\u202eROMEJULIT: helo\n", closed=True)
    huggingface.export(randomised(small(vocab_size=tokenizer.vocab_size)), tokenizer, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    ["-m nanogpt.cli generate", "examples/complete.py", "examples/creative_writing.py", "examples/chat_bot.py"],
)
def test_a_hostile_model_on_a_real_terminal(script, hostile_model):
    pty = pytest.importorskip("pty")
    command = [sys.executable, *script.split(), str(hostile_model), "--tokens", "100", "--seed", "1"]
    talks = "chat_bot" in script
    command += [] if talks else ["--prompt", "\x1b"]

    def run(*more: str) -> bytes:
        main, terminal = pty.openpty()
        os.write(main, b"hello\n\n" if talks else b"")  # an empty line ends a talk
        streams = {"stdin": terminal, "stdout": terminal}
        with subprocess.Popen([*command, *more], cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": "."}, **streams):
            os.close(terminal)
            written = b""
            while True:
                try:
                    written += os.read(main, 4096)
                except OSError:  # Linux: the other end is closed
                    break
                if not written:
                    break
        os.close(main)
        return written

    shown = run()
    assert b"\x1b" not in shown and b"\x9b" not in shown.decode().encode("latin-1", "replace") and b"\\x1b" in shown
    assert b"\x1b" in run("--raw")
