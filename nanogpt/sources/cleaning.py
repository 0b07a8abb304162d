"""The form that every text is brought into before anything else is done with it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from typing import Literal

from nanogpt.faults import UserError

LEAST_CHARACTERS = 1000  # of a text: below this no split says anything
# What str.splitlines() takes for the end of a line: form feed, vertical tab, the separators of files, groups, records
# and units, NEL, and U+2028 and U+2029. Without them, the words before and after would become one.
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x1c-\x1f\x85\u2028\u2029]")
_REMARKABLE = bytes(set(range(0x20)) - set(b"\t\n")) + b"\x7f"
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f]")


def clean(text: str, form: Literal["NFC", "NFKC"] = "NFC") -> str:
    """Unix newlines, a composed form of Unicode, no byte-order mark, no control characters but tab and newline.

    NFKC also writes ligatures, full-width letters, superscripts and the like as the plain characters they stand for.
    Every line end that Unicode knows becomes a newline. Idempotent, and tiny Shakespeare stays byte for byte the same.
    """
    if text.isascii() and len(text.encode().translate(None, _REMARKABLE)) == len(text):
        return text  # 8 times as fast as to look for each
    text = _CONTROL.sub("", _LINE_END.sub("\n", text))
    return unicodedata.normalize(form, text.lstrip("\ufeff"))


def obstacle(characters: int, alphabet: Collection[str]) -> str:
    """Why nothing can be learned from a text of so many characters and this alphabet; "" where something can."""
    if characters < LEAST_CHARACTERS:
        return f"it has {characters:,} characters; at least {LEAST_CHARACTERS:,} are needed"
    if len(alphabet) < 2:
        return f"it is {next(iter(alphabet))!r} over and over: there is nothing to predict"
    return ""


def require_learnable(characters: int, alphabet: Collection[str]) -> None:
    """Raise UserError where nothing can be learned from a cleaned text."""
    if reason := obstacle(characters, alphabet):
        raise UserError(f"data.source: nothing can be learned from the text as it was cleaned: {reason}")
