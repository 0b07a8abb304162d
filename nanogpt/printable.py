"""Text on a terminal that a model wrote or a person chose, such as a file's name: control characters in it are commands
there, so they are shown instead."""

from __future__ import annotations

import sys
import unicodedata

TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # Unicode's classes of bidirectional controls


def printable(text: str, encoding: str = "utf-8") -> str:
    """`text` with what a terminal would obey, or cannot show, as escapes such as \\x1b.

    Line ends and tabs stay. Escaped are control characters (an escape character begins a command to the terminal),
    those that turn the direction of writing, and what `encoding` has no bytes for.
    """
    if text.isascii() and text.isprintable():
        return text
    shown = "".join(map(_visible, text))
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def show(text: str, raw: bool = False) -> None:
    """Print `text` at once, without a line end: printable() on a terminal unless `raw`, as it is anywhere else."""
    out = sys.stdout
    encoding = out.encoding or "utf-8"
    if out.isatty() and not raw:
        text = printable(text, encoding)
    out.write(text.encode(encoding, "backslashreplace").decode(encoding))
    out.flush()


def show_mistake(begins: str, mistake: object) -> None:
    """A line on standard error: `begins`, a colon and what `mistake` says, whatever was typed or a file is called."""
    words = " ".join(str(mistake).split())
    print(f"{begins}: {printable(words, sys.stderr.encoding or 'utf-8')}", file=sys.stderr)


def _visible(character: str) -> str:
    is_control = unicodedata.category(character) in ("Cc", "Zl", "Zp") and character not in "\n\t"
    turns = unicodedata.bidirectional(character) in TURNING
    return ascii(character)[1:-1] if is_control or turns else character


def visible(text: str) -> str:
    """A token with signs for what cannot be seen."""
    return text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
