"""Pieces of a source -> documents: files in every format that people keep texts in, here or where fsspec reaches.

A file of this machine that cannot be read is counted in an Account, with a few examples, and left out: one that is
damaged, changed, packed to do harm, or no text. A fault of the network is raised, so that its piece is read again.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.sources.account import Account
from nanogpt.sources.decoding import HEAD, decode
from nanogpt.sources.document import Document, Piece
from nanogpt.sources.formats import archive, columnar, compressed, markup, pdf, plain, records
from nanogpt.sources.formats.family import Reader, Text, TooLong, Unreadable, Wanted, whole
from nanogpt.spelling import path_of, spelled
from nanogpt.units import MIB

READERS: dict[str, tuple[str, Reader]] = {  # the format and its reader by the end of a file's name
    ".txt": ("text", plain.read_plain),
    ".md": ("markdown", plain.read_plain),
    ".jsonl": ("jsonl", records.read_json),
    ".ndjson": ("jsonl", records.read_json),
    ".json": ("json", records.read_json),
    ".csv": ("csv", records.read_table),
    ".tsv": ("csv", records.read_table),
    ".parquet": ("parquet", columnar.read_parquet),
    ".html": ("html", markup.read_html),
    ".htm": ("html", markup.read_html),
    ".xhtml": ("html", markup.read_html),
    ".epub": ("epub", markup.read_epub),
    ".pdf": ("pdf", pdf.read_pdf),
}
PLAIN = ("text", "markdown")  # formats that are read as they are
WHOLE = MIB  # bytes of a file whose documents are held at once: of short records they take 20 times as much
ZIP = ".zip"
_HALF = re.compile("[\ud800-\udfff]")
_NEED_ALL = (columnar.read_parquet, markup.read_epub, pdf.read_pdf)  # read from several places of a file
_WHILE_READ = "changed while it was read; what came of it is kept"
FILES, TEXT, JSONL, PARQUET, ARCHIVE = "files", "text", "jsonl", "parquet", "zip"  # formats of pieces


def read(piece: Piece, account: Account | None = None) -> Iterator[Document]:
    """The documents of a piece, in the order in which they lie. `account` counts them, and what was left out.

    Options of a piece: `encoding`, `column` and `repair` as in Wanted, `stamp` (State) of the file, `name` of it.
    Raises OSError where the address of a piece is a URL that cannot be read.
    """
    account, wanted = Account() if account is None else account, wanted_of(piece)
    if piece.format == FILES:
        for name in json.loads(piece.options["files"]):
            yield from read_file(path_of(piece.address) / path_of(name), name, piece.source, wanted, account)
    elif is_url(piece.address):
        import fsspec  # 0.1 s, and files of this machine do without

        with fsspec.open(piece.address, "rb") as file:
            yield from _read_part(BufferedReader(file, HEAD), piece, wanted, account)
    elif piece.format == TEXT and piece.end is None:
        yield from read_file(path_of(piece.address), name_of(piece), piece.source, wanted, account)
    else:
        with excused(name_of(piece), account), durable.open_plain(path_of(piece.address)) as file:
            before = _state(file)
            if before.stamp != piece.options.get("stamp", before.stamp):
                raise _Changed("is no longer what it was when its pieces were made")
            yield from _read_part(file, piece, wanted, account)
            if _state(file) != before:
                account.leave_out("changed_while_read", name_of(piece), _WHILE_READ)


def name_of(piece: Piece) -> str:
    """What the documents of a part of a file are called by."""
    return piece.options.get("name") or piece.address.rpartition("/")[2]


def wanted_of(piece: Piece) -> Wanted:
    """How the texts of a piece are read, from its options."""
    options = piece.options
    return Wanted(options.get("encoding", "auto"), options.get("column", "auto"), options.get("repair") == "true")


def read_file(path: Path, name: str, source: str, wanted: Wanted, account: Account) -> Iterator[Document]:
    """The documents of one file, called `name`, by the end of its name; a plain text where that says nothing.

    One of up to WHOLE bytes is read before its first document is given: it is left out whole if anything is wrong.
    """
    with excused(name, account), durable.open_plain(path) as file:
        before = _state(file)
        if before.size > WHOLE:
            yield from _documents_in(file, path.name, name, before.size, source, wanted, account)
            if _state(file) != before:
                account.leave_out("changed_while_read", name, _WHILE_READ)
            return
        read = Account()
        documents = list(_documents_in(file, path.name, name, before.size, source, wanted, read))
        if _state(file) != before:
            raise _Changed("changed while it was read")
        account.add(read)
        yield from documents


def texts_of(path: Path, wanted: Wanted, account: Account, is_alone: bool = True) -> Iterator[str]:
    """The texts in one file: one where it is plain text, however long. Where that is no text, raises UserError if it is
    the only file; among several it is left out, and counted."""
    name = spelled(path.name)
    if not is_plain(path):
        yield from (document.text for document in read_file(path, name, "", wanted, account))
        return
    decoded = None
    with nullcontext() if is_alone else excused(name, account):
        decoded = decode(durable.read_bytes(path), path if is_alone else Path(name), wanted.encoding)
    if decoded is None:
        return
    account.note(decoded, name)
    yield account.mended(decoded.text) if wanted.repair else decoded.text


def is_plain(path: Path) -> bool:
    """Whether a file is one text, as it is: by its name, or because that says nothing else."""
    return format_of(path.name) in (*PLAIN, "") and path.suffix.lower() not in compressed.SUFFIXES


def format_of(name: str) -> str:
    """The format of a file called `name`; "" for none that is known here."""
    bare = PurePosixPath(name.lower())
    if bare.suffix == ZIP:
        return ARCHIVE
    packed = bare.suffix in compressed.SUFFIXES
    known = READERS.get(PurePosixPath(bare.stem).suffix if packed else bare.suffix)
    if known is None or (packed and known[1] in _NEED_ALL):
        return ""
    return known[0]


def _documents_in(
    file: BufferedReader, file_name: str, name: str, size: int, source: str, wanted: Wanted, account: Account
) -> Iterator[Document]:
    """The documents of an open file of `size` bytes; `name` is what they are called by."""
    allowance = compressed.Allowance(size)
    if PurePosixPath(file_name).suffix.lower() == ZIP:
        yield from _documents_packed(file, name, allowance, size, source, wanted, account)
        return
    texts = _texts(file, PurePosixPath(file_name), allowance, name, wanted, account)
    yield from _documents(texts, name, format_of(file_name), source, wanted, account)


def _documents_packed(
    file: BinaryIO, name: str, allowance: compressed.Allowance, size: int, source: str, wanted: Wanted,
    account: Account, first: int = 0, end: int | None = None,
) -> Iterator[Document]:  # fmt: skip
    """The documents in the members [first, end) of an archive."""
    with zipfile.ZipFile(file) as packed:
        for info in archive.members(packed, size)[first:end]:
            place, called = PurePosixPath(info.filename), f"{name}/{spelled(info.filename)}"
            kind = format_of(place.name)
            if kind in ("", ARCHIVE):
                account.leave_out("not_a_text_format", called, "is in no format of texts that is known here")
                continue
            with excused(called, account), packed.open(info) as member:
                texts = _texts(compressed.limited(member, allowance), place, allowance, called, wanted, account)
                yield from _documents(texts, called, kind, source, wanted, account)


def _texts(
    file: BufferedReader, place: PurePosixPath, allowance: compressed.Allowance, name: str, wanted: Wanted,
    account: Account,
) -> Iterator[Text]:  # fmt: skip
    """The texts of an open file, compressed or not, by the end of its name."""
    if packing := compressed.SUFFIXES.get(place.suffix.lower()):
        file, place = compressed.expanded(file, packing, allowance), PurePosixPath(place.stem)
    _, reader = READERS.get(place.suffix.lower(), READERS[".txt"])
    if reader in _NEED_ALL and not file.seekable():
        file = BufferedReader(io.BytesIO(whole(file)))
    return reader(file, name, wanted, account)


def _documents(
    texts: Iterator[Text], name: str, kind: str, source: str, wanted: Wanted, account: Account
) -> Iterator[Document]:
    """`texts` as documents, counted; those without a letter are left out."""
    for text in texts:
        called = f"{name}:{text.place}" if text.place else name
        content = text.text
        if not content.strip("\ufeff\0 \t\r\n"):
            account.leave_out("empty", called, "has no text in it")
            continue
        if wanted.repair:
            content = account.mended(content)
        if not content.isascii():  # JSON may name half a character
            content = _HALF.sub("\ufffd", content)
        account.documents += 1
        account.characters += len(content)
        account.formats[kind or TEXT] += 1
        yield Document(content, called, source)


class _Changed(Exception):
    """A file is no longer what it was."""


@dataclass(frozen=True)
class State:
    """What changes with a file's content."""

    size: int  # bytes
    modified: int  # nanoseconds
    inode: int

    @property
    def stamp(self) -> str:
        """As a piece carries it; a copy of the file elsewhere has another inode."""
        return f"{self.size}-{self.modified}"


def state_of(status: os.stat_result) -> State:
    return State(status.st_size, status.st_mtime_ns, status.st_ino)


def _state(file: BufferedReader) -> State:
    return state_of(os.fstat(file.fileno()))


@contextmanager
def excused(name: str, account: Account) -> Iterator[None]:
    """Count what is wrong with a file of this machine, and leave the file out."""
    try:
        yield
    except _Changed as error:
        account.leave_out("changed_while_read", name, str(error))
    except TooLong as error:
        account.leave_out("too_long", name, str(error))
    except Unreadable as error:
        account.leave_out("unreadable", name, str(error))
    except UserError as error:  # of decoding
        account.leave_out("not_text", name, str(error).removeprefix("data.source: ").removeprefix(f"{name} "))
    except _DAMAGED as error:
        account.leave_out("unreadable", name, _in_short(error))


# EOFError, zlib.error, LZMAError: a packed file that was cut or is damaged; RuntimeError: a member with a password;
# NotImplementedError: an unknown way of packing; ValueError: what pyarrow raises for damaged tables.
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, ValueError, csv.Error)


def _in_short(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return next(iter(reason.splitlines()), "") or type(error).__name__


# ---- pieces


def _read_part(file: BufferedReader, piece: Piece, wanted: Wanted, account: Account) -> Iterator[Document]:
    """The documents of [first, end) of an open file."""
    name, source, first, end = name_of(piece), piece.source, piece.first, piece.end
    if piece.format == ARCHIVE:
        size = file.seek(0, io.SEEK_END)
        return _documents_packed(file, name, compressed.Allowance(size), size, source, wanted, account, first, end)
    if piece.format == PARQUET:
        texts = columnar.read_row_groups(file, name, wanted, account, first, end)
        return _documents(texts, name, PARQUET, source, wanted, account)
    file.seek(first)
    if piece.format == JSONL:
        texts = records.read_json_lines(file, name, wanted, account, first, end)
    elif piece.format == TEXT:
        texts = plain.read_part(file.read(-1 if end is None else end - first), first, name, wanted, account)
    else:
        raise ValueError(f"{piece.format!r} is no format of pieces")
    return _documents(texts, name, piece.format, source, wanted, account)


def is_url(address: str) -> bool:
    """Whether an address is one that fsspec opens, not a path."""
    return "://" in address
