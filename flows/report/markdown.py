"""How figures and foreign text are put into words: units for people, and Markdown that data cannot break.

`safe` is the one gate between data and a document: every value a template prints passes it, and only text that is
already Markdown (`Markup`) goes through unchanged.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

from jinja2 import Undefined
from markupsafe import Markup

NOTHING = "–"


def byte_size(value: float | None) -> str:
    """1536 -> '1.5 KiB'."""
    if value is None:
        return NOTHING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            return f"{value:,.0f} B" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def duration(seconds: float | None) -> str:
    """0.0123 -> '12 ms', 8.42 -> '8.4 s', 200 -> '3 min 20 s', 21900 -> '6 h 05 min'."""
    if seconds is None:
        return NOTHING
    if seconds < 0:
        return "−" + duration(-seconds)
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    return f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60:02d} min"


def number(value: float | None, digits: int | None = None) -> str:
    """Whole numbers with separators, others with `digits` decimals or four significant figures."""
    if value is None:
        return NOTHING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if digits is not None:
        return f"{value:,.{digits}f}"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def count(value: float | None) -> str:
    """803000 -> '0.80 M', 124e6 -> '124.0 M': parameters and tokens at a glance."""
    if value is None:
        return NOTHING
    for size, unit, least in ((1e9, "B", 1e9), (1e6, "M", 1e5)):
        if abs(value) >= least:
            return f"{value / size:.2f} {unit}" if abs(value) < 10 * size else f"{value / size:,.1f} {unit}"
    return f"{value:,.0f}"


def flops(value: float | None) -> str:
    """1.2e11 -> '120 GFLOP/s'."""
    if value is None:
        return NOTHING
    for size, unit in ((1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s")):
        if abs(value) >= size or unit == "MFLOP/s":
            return f"{value / size:.3g} {unit}"
    raise AssertionError("unreachable")


def percent(value: float | None) -> str:
    """0.163 -> '16 %'."""
    return NOTHING if value is None else f"{100 * value:.0f} %" if abs(value) >= 0.1 else f"{100 * value:.1f} %"


def against(actual: float | None, planned: float | None) -> Markup:
    """How far off a plan was: 107 against 100 -> '+7 %'."""
    if actual is None or not planned:
        return Markup(NOTHING)
    return Markup(f"{100 * (actual / planned - 1):+.0f} %".replace("-", "−"))


def safe(value: Any) -> Markup:
    """`value` as inline Markdown that shows exactly its characters: one line, nothing active, no table broken."""
    if isinstance(value, Undefined):
        return str(value)  # a StrictUndefined raises here, which is its purpose
    if hasattr(value, "__html__"):
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
        return str(value)
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
        return str(value)
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
