"""Figures and foreign text as Markdown that data cannot break, for templates.

`safe` is the one gate between data and a document: every value a template prints passes it, and only text that is
already Markdown (`Markup`) goes through unchanged.
"""

from collections.abc import Iterable
from typing import Any

from jinja2 import Undefined
from markupsafe import Markup

from nanogpt import markdown
from nanogpt.units import NOTHING, byte_size, count, duration, flops, number, percent


def against(actual: float | None, planned: float | None) -> Markup:
    """How far off a plan was: 107 against 100 -> '+7 %'."""
    if actual is None or not planned:
        return Markup(NOTHING)
    off = round(100 * (actual / planned - 1))
    return Markup(f"{off:+d} %".replace("-", "−") if off else "0 %")


def safe(value: Any) -> Markup:
    """`value` as inline Markdown that shows exactly its characters: one line, nothing active, no table broken."""
    if isinstance(value, Undefined):
        return Markup(str(value))  # a StrictUndefined raises here, which is its purpose
    if isinstance(value, Markup):
        return value
    text = NOTHING if value is None else "yes" if value is True else "no" if value is False else str(value)
    return Markup(markdown.inline(text))


def sentence(text: str | None) -> Markup:
    """A cause, made safe, with a full stop."""
    return safe((text or "no cause was recorded").rstrip(" .")) + "."


def code(value: Any) -> Markup:
    """`value` as a code span on one line."""
    if isinstance(value, Undefined):
        return Markup(str(value))
    return Markup(markdown.code(str(value)) if value is not None else "") or Markup(NOTHING)


def code_cell(value: Any) -> Markup:
    """A code span for a table, where a bar must be escaped even inside it."""
    return Markup(str(code(value)).replace("|", "\\|"))


def block(value: Any, language: str = "text") -> Markup:
    """`value` as a fenced block of text that it cannot leave."""
    return Markup(str(value) if isinstance(value, Undefined) else markdown.block(str(value), language))


def visible(token: str) -> Markup:
    """A token as a code span in which spaces and line ends can be seen."""
    return code(str(token).replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥"))


def bullets(lines: Iterable[Any]) -> Markup:
    """A Markdown list, each entry made safe."""
    return Markup("\n".join(f"- {safe(line)}" for line in lines))


FILTERS = {
    "bytes": byte_size, "seconds": duration, "number": number, "count": count, "flops": flops, "percent": percent,
    "against": against, "code": code, "code_cell": code_cell, "block": block, "visible": visible, "bullets": bullets,
}  # fmt: skip
