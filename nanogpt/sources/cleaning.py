"""The form that every text is brought into before anything else is done with it."""

from __future__ import annotations

import re
import unicodedata

# What str.splitlines() takes for the end of a line: form feed, vertical tab, the separators of files, groups, records
# and units, NEL, and U+2028 and U+2029. Without them, the words before and after would become one.
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x1c-\x1f\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f]")


def clean(text: str) -> str:
    """Unix newlines, Unicode's composed form (NFC), no byte-order mark, no control characters but tab and newline.

    Every line end that Unicode knows becomes a newline. Idempotent, and tiny Shakespeare stays byte for byte the same.
    """
    text = _CONTROL.sub("", _LINE_END.sub("\n", text))
    return unicodedata.normalize("NFC", text.lstrip("\ufeff"))
