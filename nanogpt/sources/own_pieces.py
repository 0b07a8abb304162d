"""A person's own texts as pieces: many small files in one, a large one in several, cut where its format allows."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from io import BufferedReader
from itertools import pairwise
from pathlib import Path

from nanogpt import durable
from nanogpt.sources import mojibake, own, reading
from nanogpt.sources.account import Account
from nanogpt.sources.decoding import HEAD
from nanogpt.sources.document import Piece
from nanogpt.sources.formats import archive, columnar, compressed, plain, records
from nanogpt.sources.formats.family import PART, Wanted
from nanogpt.sources.own import File
from nanogpt.spelling import spelled

MOST_FILES = 1000  # in a piece: of tiny ones a thousand take about as long as a piece of PART bytes of text
_WINDOW = 1 << 16  # bytes in which a line of most texts ends


def own_pieces(source: str, wanted: Wanted | None = None, account: Account | None = None) -> list[Piece]:
    """The pieces of a source that is a person's own, in the order of its files; `wanted` goes into their options.

    `account` counts what stands among the texts and is none. In memory are the names alone, as text. A piece carries
    the size and time of its files, so that work done on what they were before is not taken for work on what they are.
    Raises UserError as own.find_own does.
    """
    return found_pieces(source, wanted or Wanted(), own.Search(Account() if account is None else account))


def found_pieces(source: str, wanted: Wanted, search: own.Search) -> list[Piece]:
    """own_pieces(), with all that the search came by."""
    if wanted.repair:
        mojibake.require()
    return list(_pieces(own.files_of(source, search), own.name_of(source), wanted, search.account))


def pieces_of_file(path: Path, source: str, wanted: Wanted | None = None) -> list[Piece]:
    """The pieces of one file that this project wrote or downloaded. Raises OSError."""
    status = path.stat()
    file = File(os.path.dirname(os.path.abspath(path)), path.name, status.st_size, status.st_mtime_ns)
    return list(_pieces([file], source, wanted or Wanted(), Account()))


def _pieces(files: Iterable[File], source: str, wanted: Wanted, account: Account) -> Iterator[Piece]:
    group, size = list[File](), 0
    for file in files:
        is_packed = file.path.suffix.lower() in compressed.SUFFIXES
        is_cut = not is_packed and file.size > _CUT_ABOVE.get(_format_of(file), file.size)
        is_full = size + file.size > PART or len(group) == MOST_FILES
        if group and (is_cut or is_full or file.root != group[0].root):
            yield _grouped(group, source, wanted)
            group, size = [], 0
        if is_cut:
            yield from _parts(file, source, wanted, account)
        else:
            group.append(file)
            size += file.size
    if group:
        yield _grouped(group, source, wanted)


def _grouped(files: Sequence[File], source: str, wanted: Wanted) -> Piece:
    """Whole files as one piece; a plain one alone as the text that it is, which may be divided where it stands."""
    first = files[0]
    if len(files) == 1 and reading.is_plain(first.path):
        options = {"name": spelled(first.name), "stamp": f"{first.size}-{first.modified}"}
        return Piece(reading.TEXT, spelled(first.path), source, options=_options(wanted) | options)
    named = json.dumps([spelled(file.name) for file in files], ensure_ascii=False)
    stamp = durable.digest([(file.size, file.modified) for file in files])
    options = _options(wanted) | {"files": named, "stamp": stamp}
    return Piece(reading.FILES, spelled(first.root), source, options=options)


def _parts(file: File, source: str, wanted: Wanted, account: Account) -> Iterator[Piece]:
    """A large file in pieces. One that cannot be read is counted."""
    kind, name = _format_of(file), spelled(file.name)
    with reading.excused(name, account), durable.open_plain(file.path) as opened:
        state = reading.state_of(os.fstat(opened.fileno()))
        if kind in reading.PLAIN or kind == reading.JSONL:
            encoding = plain.encoding_of(opened.read(HEAD), name, wanted.encoding)
            wanted = replace(wanted, encoding=encoding)
            in_lines = kind == reading.JSONL
            if in_lines and encoding in plain.UNITS:
                yield _grouped([file], source, wanted)
                return
            if in_lines:
                opened.seek(0)
                wanted = replace(wanted, column=records.column_of_first(opened, name, wanted))
            ends = list(_line_ends(opened, state.size) if in_lines else _borders(opened, state.size, encoding))
        elif kind == reading.PARQUET:
            groups = columnar.opened(opened).metadata
            ends = _filled([groups.row_group(index).total_byte_size for index in range(groups.num_row_groups)])
        else:
            with zipfile.ZipFile(opened) as packed:
                ends = _filled([member.file_size for member in archive.members(packed, state.size)])
        options = _options(wanted) | {"name": name, "stamp": state.stamp}
        form, address = reading.TEXT if kind in reading.PLAIN else kind, spelled(file.path)
        for first, end in pairwise([0, *ends]):
            yield Piece(form, address, source, first, end, options)


def _borders(file: BufferedReader, size: int, encoding: str) -> Iterator[int]:
    """Where the parts of a long text end, as formats.plain cuts one that it cannot seek in."""
    first = 0
    while size - first > PART:
        file.seek(first + PART - _WINDOW)
        length = PART - _WINDOW + end if (end := plain.last_line_end(file.read(_WINDOW), encoding)) else 0
        if not length:
            file.seek(first)
            length = plain.border(file.read(PART), encoding)
        first += length
        yield first
    yield size


def _line_ends(file: BufferedReader, size: int) -> Iterator[int]:
    """Where the first line ends of which PART bytes or more lie behind the one before."""
    first = 0
    while size - first > PART:
        file.seek(first + PART)
        while (part := file.readline(HEAD)) and not part.endswith(b"\n"):
            pass
        first = file.tell()
        if first < size:
            yield first
    yield size


def _filled(sizes: Sequence[int]) -> list[int]:
    """Where groups end that have PART bytes or more each."""
    ends, held = list[int](), 0
    for index, size in enumerate(sizes, 1):
        held += size
        if held >= PART or index == len(sizes):
            ends.append(index)
            held = 0
    return ends


def _format_of(file: File) -> str:
    return reading.format_of(os.path.basename(file.name))


def _options(wanted: Wanted) -> dict[str, str]:
    """What reading.wanted_of reads; nothing for what is the default."""
    options = {"encoding": wanted.encoding, "column": wanted.column, "repair": str(wanted.repair).lower()}
    return {name: value for name, value in options.items() if value not in ("auto", "false")}


_CUT_ABOVE = {  # bytes; what is compressed holds several times as many
    "text": PART,
    "markdown": PART,
    reading.JSONL: PART,
    reading.PARQUET: PART // 4,
    reading.ARCHIVE: PART // 4,
}
