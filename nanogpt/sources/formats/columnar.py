"""Parquet files: a column of texts, row group by row group, so that no file is ever held whole."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

from nanogpt.sources.account import Account
from nanogpt.sources.formats.compressed import Allowance
from nanogpt.sources.formats.family import LONGEST, PART, Text, Unreadable, Wanted
from nanogpt.sources.formats.plain import decoded_line
from nanogpt.sources.formats.records import choose_column

ROWS = 256  # taken out of a row group at once


def read_parquet(file: BinaryIO, name: str, wanted: Wanted, account: Account) -> Iterator[Text]:
    """The texts of all rows."""
    yield from read_row_groups(file, name, wanted, account)


def read_row_groups(
    file: BinaryIO, name: str, wanted: Wanted, account: Account, first: int = 0, end: int | None = None
) -> Iterator[Text]:
    """The texts of the row groups [first, end), named by the number of their row in the file, from 1 on.

    Raises Unreadable for what is damaged, or expands too far.
    """
    import pyarrow

    allowance = Allowance(file.seek(0, io.SEEK_END))
    table = opened(file)
    groups = range(first, table.num_row_groups if end is None else end)
    column = choose_column(columns_of_text(table.schema_arrow), wanted.column)
    account.encodings["utf-8"] += 1
    row = sum(table.metadata.row_group(group).num_rows for group in range(first))
    try:
        for value in values(file, table.metadata, groups, column, allowance):
            row += 1
            if value is None:
                account.leave_out("empty", f"{name}:{row}", f"has no {column!r}")
            elif len(value) > LONGEST:
                account.leave_out("too_long", f"{name}:{row}", f"has {len(value):,} characters")
            else:
                text = value if isinstance(value, str) else decoded_line(value, wanted.encoding).text
                yield Text(text, str(row))
    except pyarrow.ArrowException as error:
        raise Unreadable(f"is damaged ({next(iter(str(error).splitlines()), type(error).__name__)[:200]})") from None


def values(
    file: Any, metadata: Any, groups: range, column: str, allowance: Allowance, pre_buffer: bool = False
) -> Iterator[str | bytes | None]:
    """What is in a column of text, a few megabytes at a time: a value that a dictionary has once for a million rows is
    in memory once. Raises Unreadable where more comes out than `allowance` admits, and what pyarrow raises."""
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(file, metadata=metadata, read_dictionary=[column], pre_buffer=pre_buffer)
    # Of all columns: to ask the metadata for one ends the process where a file is damaged.
    sizes = [(metadata.row_group(group).num_rows, metadata.row_group(group).total_byte_size) for group in groups]
    rows = min([ROWS, *(max(1, PART * rows // max(1, size)) for rows, size in sizes)])
    for batch in table.iter_batches(rows, row_groups=list(groups), columns=[column], use_threads=False):
        for value in batch.column(0):
            text: str | bytes | None = value.as_py()
            allowance.take(len(text or ""))
            yield text


def opened(file: BinaryIO) -> Any:  # pyarrow has no types
    """The table, of which the end of the file alone is read yet. Raises Unreadable."""
    import pyarrow.parquet  # 0.19 s, which a plain text does without

    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise Unreadable(f"is no Parquet file ({str(error).split('. ')[0]})") from None


def columns_of_text(schema: Any) -> list[str]:
    """The names of a table's columns that hold texts, or bytes."""
    import pyarrow

    def is_text(kind: Any) -> bool:
        types = pyarrow.types
        if types.is_dictionary(kind):
            kind = kind.value_type
        tests = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, types.is_string_view)
        return any(test(kind) for test in tests)

    return [field.name for field in schema if is_text(field.type)]
