"""Figures and foreign text as Markdown that data cannot break.

`safe` is the one gate between data and a document: every value a template prints passes it, and only text that is
already Markdown (`Markup`) goes through unchanged.
"""

import re
from collections.abc import Iterable
from typing import Any

from jinja2 import Undefined
from markupsafe import Markup

from nanogpt.units import NOTHING, byte_size, count, duration, flops, number, percent


def against(actual: float | None, planned: float | None) -> Markup:
    """How far off a plan was: 107 against 100 -> '+7 %'."""
    if actual is None or not planned:
        return Markup(NOTHING)
    return Markup(f"{100 * (actual / planned - 1):+.0f} %".replace("-", "−"))


def safe(value: Any) -> Markup:
    """`value` as inline Markdown that shows exactly its characters: one line, nothing active, no table broken."""
    if isinstance(value, Undefined):
        return Markup(str(value))  # a StrictUndefined raises here, which is its purpose
    if isinstance(value, Markup):
        return value
    text = NOTHING if value is None else "yes" if value is True else "no" if value is False else str(value)
    text = " ".join(_printable(text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)
    # what would begin a heading, a list or a rule at the start of a line
    text = re.sub(r"^([-+=#])", r"\\\1", text)
    text = re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text)
    return Markup(text)


def code(value: Any) -> Markup:
    """`value` as a code span on one line: its fence is longer than any run of backticks in it."""
    if isinstance(value, Undefined):
        return Markup(str(value))
    if value is None:
        return Markup(NOTHING)
    text = " ".join(_printable(str(value)).split())
    if not text:
        return Markup(NOTHING)
    fence = "`" * (_longest_run(text, "`") + 1)
    edge = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{fence}{edge}{text}{edge}{fence}")


def code_cell(value: Any) -> Markup:
    """A code span for a table, where a bar must be escaped even inside it."""
    return Markup(str(code(value)).replace("|", "\\|"))


def block(value: Any, language: str = "text") -> Markup:
    """`value` as a fenced block of text that it cannot leave."""
    if isinstance(value, Undefined):
        return Markup(str(value))
    text = _printable(str(value)).strip("\n")
    fence = "`" * max(3, _longest_run(text, "`") + 1)
    return Markup(f"{fence}{language}\n{text}\n{fence}")


def visible(token: str) -> Markup:
    """A token as a code span in which spaces and line ends can be seen."""
    return code(str(token).replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥"))


def bullets(lines: Iterable[Any]) -> Markup:
    """A Markdown list, each entry made safe."""
    return Markup("\n".join(f"- {safe(line)}" for line in lines))


def _printable(text: str) -> str:
    """Line ends as \\n; control characters, unpaired surrogates and direction overrides as visible signs."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]", "\ufffd", text)


def _longest_run(text: str, character: str) -> int:
    return max((len(run) for run in re.findall(f"{re.escape(character)}+", text)), default=0)


FILTERS = {
    "bytes": byte_size, "seconds": duration, "number": number, "count": count, "flops": flops, "percent": percent,
    "against": against, "code": code, "code_cell": code_cell, "block": block, "visible": visible, "bullets": bullets,
}  # fmt: skip
