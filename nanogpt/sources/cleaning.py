"""The form that every text is brought into before anything else is done with it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache
from itertools import groupby
from typing import Literal

from nanogpt.faults import UserError

LEAST_CHARACTERS = 1000  # of a text: below this no split says anything
# What str.splitlines() takes for the end of a line: form feed, vertical tab, the separators of files, groups, records
# and units, NEL, and U+2028 and U+2029. Without them, the words before and after would become one.
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x1c-\x1f\x85\u2028\u2029]")
_REMARKABLE = bytes(set(range(0x20)) - set(b"\t\n")) + b"\x7f"
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f]")
MANY = 64  # marks on one letter; Unicode's form for streams of text has 30 at most
Form = Literal["NFC", "NFKC"]


def clean(text: str, form: Form = "NFC") -> str:
    """Unix newlines, a composed form of Unicode, no byte-order mark, no control characters but tab and newline.

    NFKC also writes ligatures, full-width letters, superscripts and the like as the plain characters they stand for.
    Every line end that Unicode knows becomes a newline. Idempotent, and tiny Shakespeare stays byte for byte the same.
    """
    if text.isascii() and len(text.encode().translate(None, _REMARKABLE)) == len(text):
        return text  # 8 times as fast as to look for each
    text = _CONTROL.sub("", _LINE_END.sub("\n", text))
    return _composed(text.lstrip("\ufeff"), form)


def _composed(text: str, form: Form) -> str:
    """`text` in a normal form of Unicode.

    unicodedata puts the marks on a letter into their order by insertion, and nothing else of Python runs meanwhile:
    100,000 of two kinds in turn took 20 s. So many are put into that order here, before.
    """
    if _BEYOND_LATIN.have_a_row_in(text) and _marks().have_a_row_in(text):
        text = _marks().row.sub(lambda found: _in_order(found[0], form), text)
    return unicodedata.normalize(form, text)


class _Characters:
    """Those of a class of regular expressions; `row`: MANY of them, or more, behind one another."""

    def __init__(self, one: str):
        self.one, self.row = re.compile(one), re.compile(f"{one}{{{MANY},}}")

    def have_a_row_in(self, text: str) -> bool:
        """True where there are 2 MANY in a row: then MANY of them follow one of each MANY places, and few are looked
        at."""
        return any(self.row.match(text, MANY * found.start()) for found in self.one.finditer(text[::MANY]))


_BEYOND_LATIN = _Characters("[\u0300-\U0010ffff]")


@lru_cache(maxsize=1)
def _marks() -> _Characters:
    """With the five characters that only become marks."""
    marks = [character for character in map(chr, range(0x300, 0x20000)) if unicodedata.combining(character)]
    return _Characters(f"[{''.join(marks)}\u0f73\u0f75\u0f81\uff9e\uff9f]")


def _in_order(marks: str, form: Form) -> str:
    """Marks as normalisation orders them: by their classes; those of one class stay as they are."""
    apart = "".join(unicodedata.normalize(form.replace("C", "D"), mark) for mark in marks)  # type: ignore[arg-type]
    rows = groupby(apart, key=lambda character: unicodedata.combining(character) > 0)
    return "".join("".join(sorted(row, key=unicodedata.combining) if are_marks else row) for are_marks, row in rows)


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
