"""Lines of JSON, a JSON array, and tables of comma- or tab-separated values: each record is a document."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BufferedReader

from nanogpt.faults import nearest
from nanogpt.sources.account import Account
from nanogpt.sources.decoding import Decoded
from nanogpt.sources.formats.family import LONGEST, Text, Unreadable, Wanted, head_of, whole
from nanogpt.sources.formats.plain import UNITS, decoded_line, encoding_of

COLUMNS = ("text", "content", "document", "body", "article", "story", "raw_content", "markdown", "page_content")
AUTO = "auto"
DELIMITERS = ",;\t|"


def read_json(file: BufferedReader, name: str, wanted: Wanted, account: Account) -> Iterator[Text]:
    """The texts of lines of JSON, or of the elements of one array; each is an object, or the text itself."""
    head = head_of(file)
    if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from read_json_lines(file, name, wanted, account)
        return
    try:
        records = json.loads(whole(file))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"is not JSON ({_reason(error)})") from None
    columns = _Column(wanted.column)
    for number, record in enumerate(records, 1):
        yield from columns.text_of(record, str(number), name, account)
    account.encodings["utf-8"] += 1


def read_json_lines(
    file: BufferedReader, name: str, wanted: Wanted, account: Account, first: int = 0, end: int | None = None
) -> Iterator[Text]:
    """The texts of the lines that begin in [first, end) of `file`, which is at `first`; named by that byte."""
    read = lines(file, name, wanted, account, first, end)
    yield from _Column(wanted.column).texts(read, name, account)


def column_of_first(file: BufferedReader, name: str, wanted: Wanted) -> str:
    """The column of the text in lines of JSON, by the first line that has one; AUTO without. Raises Unreadable."""
    columns, account = _Column(wanted.column), Account()
    for _ in columns.texts(lines(file, name, wanted, account), name, account):
        break
    return columns.found or AUTO


def read_table(file: BufferedReader, name: str, wanted: Wanted, account: Account) -> Iterator[Text]:
    """The texts of a table whose first line names its columns."""
    csv.field_size_limit(LONGEST)
    read = lines(file, name, wanted, account)
    first = next(read, None)
    if first is None:
        return
    header = first[1].text.lstrip("\ufeff")
    delimiter = max(DELIMITERS, key=header.count)
    account.note(first[1], name)
    names = next(csv.reader([header], delimiter=delimiter), [])
    rows = csv.reader((decoded.text for _, decoded in read), delimiter=delimiter)
    columns = _Column(wanted.column, names)
    number = 1
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            account.leave_out("unreadable", f"{name}:{number}", str(error))
            continue
        if row:
            yield from columns.text_of(dict(zip(names, row, strict=False)), str(number), name, account)


def lines(
    file: BufferedReader, name: str, wanted: Wanted, account: Account, first: int = 0, end: int | None = None
) -> Iterator[tuple[int, Decoded]]:
    """(the byte at which it begins, the line) for those that begin in [first, end). One beyond LONGEST is left out."""
    head = head_of(file) if first == 0 else b""
    encoding = wanted.encoding if first else encoding_of(head, name, wanted.encoding)
    unit = UNITS.get(encoding, 1)
    place = first
    while end is None or place < end:
        line = _line(file, encoding, unit)
        if not line:
            return
        size = len(line)
        if size > LONGEST:
            size += _skip_line(file, encoding, unit)
            account.leave_out("too_long", f"{name}:{place}", f"one line of {size:,} bytes")
        else:
            yield (
                place,
                Decoded(line.decode(encoding, "replace"), encoding) if unit > 1 else decoded_line(line, encoding),
            )
        place += size


def _line(file: BufferedReader, encoding: str, unit: int) -> bytes:
    """The next line, or LONGEST + 1 bytes of it."""
    line = file.readline(LONGEST + 1)
    if unit == 1:
        return line
    newline = "\n".encode(encoding)
    while line and len(line) <= LONGEST:  # readline() ends at the byte, which may be half of a character
        line += file.read(-len(line) % unit)
        if line.endswith(newline):
            break
        more = file.readline(LONGEST + 1 - len(line))
        if not more:
            break
        line += more
    return line


def _skip_line(file: BufferedReader, encoding: str, unit: int) -> int:
    """Bytes to the end of the line, which are read and dropped."""
    skipped = 0
    while part := file.readline(1 << 20):
        skipped += len(part)
        if part.endswith(b"\n"):
            if unit > 1 and encoding.endswith("le"):
                skipped += len(file.read(unit - 1))
            break
    return skipped


class _Column:
    """Finds the text of a record."""

    def __init__(self, wanted: str, names: Sequence[str] = ()) -> None:
        self.found = choose_column(names, wanted) if names else "" if wanted == AUTO else wanted

    def texts(self, read: Iterable[tuple[int, Decoded]], name: str, account: Account) -> Iterator[Text]:
        """Those of lines of JSON."""
        for place, decoded in read:
            line = decoded.text.strip("\ufeff \t\r\n")
            if not line:
                continue
            account.note(decoded, name)
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                account.leave_out("unreadable", f"{name}:{place}", f"is not a line of JSON ({_reason(error)})")
                continue
            yield from self.text_of(record, str(place), name, account)

    def text_of(self, record: object, place: str, name: str, account: Account) -> Iterator[Text]:
        if isinstance(record, str):
            yield Text(record, place)
            return
        if not isinstance(record, Mapping):
            account.leave_out("unreadable", f"{name}:{place}", "is neither a text nor an object with one")
            return
        if not self.found:
            self.found = choose_column([key for key, value in record.items() if isinstance(value, str)], AUTO)
        value = record.get(self.found)
        if value is None:
            account.leave_out("empty", f"{name}:{place}", f"has no {self.found!r}")
        elif not isinstance(value, str):
            account.leave_out("unreadable", f"{name}:{place}", f"{self.found!r} is no text")
        else:
            yield Text(value, place)


def choose_column(names: Sequence[str], wanted: str) -> str:
    """The column of the text: `wanted`, else the first of COLUMNS, else the only one. Raises Unreadable."""
    if wanted != AUTO:
        if wanted in names:
            return wanted
        raise Unreadable(f"has no column {wanted!r}; it has {_listed(names)}{nearest(wanted, names)}")
    known = {name.lower(): name for name in reversed(names)}
    for name in COLUMNS:
        if name in known:
            return known[name]
    if len(names) == 1:
        return names[0]
    which = f"which column is the text? --set data.column=NAME; it has {_listed(names)}"
    raise Unreadable(which if names else "has no column of text")


def _listed(names: Sequence[str]) -> str:
    return (", ".join(map(repr, names[:8])) or "none") + (" ..." if len(names) > 8 else "")


def _reason(error: Exception) -> str:
    return error.args[0] if isinstance(error, json.JSONDecodeError) else type(error).__name__
