"""Mojibake repaired: text that was decoded once in a wrong encoding, such as "schÃ¶n" for "schön", by ftfy."""

from __future__ import annotations

from importlib.util import find_spec

from nanogpt.faults import UserError


def require() -> None:
    """Raise UserError where ftfy is not installed."""
    if find_spec("ftfy") is None:
        raise UserError("data.repair: needs ftfy; pip install 'nanogpt-autopilot[documents]'")


def repaired(text: str) -> str:
    """`text` with the lines repaired that ftfy finds to be mojibake; idempotent where nothing is."""
    if text.isascii():
        return text
    from ftfy import fix_encoding  # an extra; 0.07 s
    from ftfy.badness import is_bad

    lines = text.split("\n")
    return "\n".join(fix_encoding(line) if not line.isascii() and is_bad(line) else line for line in lines)
