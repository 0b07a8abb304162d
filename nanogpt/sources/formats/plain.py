"""Plain texts and Markdown: a file is a document, and a long one several, cut between lines."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

from nanogpt.sources.account import Account
from nanogpt.sources.decoding import HEAD, Decoded, decode
from nanogpt.sources.formats.family import PART, Text, Wanted, up_to

UNITS = {"utf-16-le": 2, "utf-16-be": 2, "utf-32-le": 4, "utf-32-be": 4}  # bytes; 1 in other encodings
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_plain(file: BufferedReader, name: str, wanted: Wanted, account: Account) -> Iterator[Text]:
    """The text; more than PART bytes of it in parts, each named by the byte at which it begins."""
    data = up_to(file, PART + 1)
    if len(data) <= PART:
        yield _text(data, "", name, wanted, account)
        return
    encoding = encoding_of(data[:HEAD], name, wanted.encoding)
    wanted = replace(wanted, encoding=encoding)
    first = 0
    while data:
        data += file.read(PART + 1 - len(data)) if len(data) <= PART else b""
        size = len(data) if len(data) <= PART else border(data[:PART], encoding)
        yield _text(data[:size], str(first), name, wanted, account)
        first, data = first + size, data[size:]


def read_part(data: bytes, first: int, name: str, wanted: Wanted, account: Account) -> Iterator[Text]:
    """One part of a long text, whose encoding `encoding_of` said."""
    yield _text(data, str(first), name, wanted, account)


def _text(data: bytes, place: str, name: str, wanted: Wanted, account: Account) -> Text:
    decoded = decode(data, Path(name), wanted.encoding)
    account.note(decoded, name)
    return Text(decoded.text, place)


def encoding_of(head: bytes, name: str, encoding: str) -> str:
    """What `decode` is given for each part of a long text that begins with `head`; raises UserError.

    "auto" as long as it is UTF-8: a later part may have the first bytes that are not.
    """
    for mark, marked in _MARKS:
        if head.startswith(mark):
            return marked
    if encoding != "auto":
        return encoding
    decoded = decode(head, Path(name))
    return "auto" if decoded.encoding == "utf-8" else decoded.encoding


def border(data: bytes, encoding: str) -> int:
    """Bytes of `data`, which goes on, up to the last end of a line; without one, of a character.

    Without a line end in 16 MiB of an encoding such as GB 18030, whose characters cannot be distinguished: all of it.
    """
    if end := last_line_end(data, encoding):
        return end
    unit = UNITS.get(encoding, 1)
    end = len(data) - len(data) % unit
    if unit == 2 and end:  # not between the two of a pair
        last = data[end - 2 : end].decode(encoding, "surrogatepass")
        return end - 2 if "\ud800" <= last <= "\udbff" else end
    if unit > 1:
        return end
    return _between_characters(data) if encoding in ("auto", "utf-8", "ascii") else len(data)


def last_line_end(data: bytes, encoding: str) -> int:
    """Bytes of `data`, which begins with a whole character, up to the last end of a line; 0 without one."""
    unit = UNITS.get(encoding, 1)
    newline = "\n".encode(encoding) if unit > 1 else b"\n"
    place = data.rfind(newline)
    while place % unit and place >= 0:  # the halves of two characters
        place = data.rfind(newline, 0, place + unit - 1)
    return place + unit if place >= 0 else 0


def _between_characters(data: bytes) -> int:
    """The last place in UTF-8 at which a character begins; its end where it is not UTF-8 there."""
    for back in range(1, min(4, len(data)) + 1):
        if data[-back] & 0xC0 != 0x80:
            return len(data) - back
    return len(data)


def decoded_line(line: bytes, encoding: str) -> Decoded:
    """A line of a file of records: UTF-8, else `encoding`; what is no character becomes U+FFFD."""
    try:
        return Decoded(line.decode("utf-8"), "utf-8")
    except UnicodeDecodeError:
        name = "utf-8" if encoding == "auto" else encoding
        text = line.decode(name, "replace")
        return Decoded(text, name, replaced=max(1, text.count("\ufffd")))
