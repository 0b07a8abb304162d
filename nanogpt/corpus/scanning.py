"""The first pass: a piece is read, brought into its normal form and filtered; what is kept lies in one file, with what
decides about it later.

A pure function of the piece and the settings. What it writes is whole or absent, so a piece that was done is not done
again, and the bytes are the same whoever does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanogpt import durable
from nanogpt.config import CLEANING_CHOICES, DataConfig
from nanogpt.corpus import kept
from nanogpt.corpus.fates import Fate, Fates
from nanogpt.corpus.filters import Filters
from nanogpt.records import from_json, to_json
from nanogpt.results.text import DocumentFates
from nanogpt.sources.account import Account
from nanogpt.sources.document import Document, Piece
from nanogpt.sources.reading import TEXT, read

VERSION = 1  # of what is done to a piece: files of another one are made again
SECTION = 1 << 16  # characters at most of one long text that are divided, and tokenised, as one document
SECTIONS = 20  # at least, of a part of a long text: of a short one too a twentieth can be held out
COUNTED_AT_ONCE = 1 << 20  # characters
ALL_CHARACTERS = 0x110000


@dataclass(frozen=True)
class ScanTask:
    number: int  # of the piece in its source
    piece: Piece


@dataclass(frozen=True)
class Scanned:
    """What was kept of a piece. `alphabet`: how often each character occurs in it."""

    documents: int
    alphabet: dict[str, int]
    account: Account
    fates: DocumentFates


@dataclass(frozen=True)
class Scan:
    """What scans the pieces of a source, in any process. `key` is the digest of all that decides what is kept."""

    folder: Path
    filters: Filters
    sketched: bool
    one_texts: frozenset[str]  # the sources that are one long text each
    key: str

    @classmethod
    def of(
        cls, folder: Path, pieces: Sequence[Piece], config: DataConfig, filters: Filters, normal_form: str = ""
    ) -> Scan:
        """`normal_form`: the digest of a tokenizer that brings texts into its own."""
        settings = config.model_dump(include={*CLEANING_CHOICES} - {"similarity"})  # which is for what is decided later
        one_texts = one_texts_of(pieces)
        sketched = config.near_duplicates != "ignore" and any(piece.source not in one_texts for piece in pieces)
        return cls(folder, filters, sketched, one_texts, durable.digest([VERSION, settings, normal_form, sketched]))

    def __call__(self, task: ScanTask) -> Scanned:
        """Raises OSError where a piece's address cannot be read, or `folder` not be written."""
        path, key = kept_file(self.folder, task.number), self.key_of(task.piece)
        if (before := _done(path, key)) is not None:
            return before
        with durable.replacing(path) as file, kept.Writer(file, self.sketched) as writer:
            scanned = self._keep(task.piece, writer)
        note = {"key": key, "bytes": path.stat().st_size, "scanned": to_json(scanned)}
        durable.write_note(_note_of(path), note)
        return scanned

    def key_of(self, piece: Piece) -> str:
        return durable.digest([self.key, piece.source in self.one_texts, to_json(piece)])

    def _keep(self, piece: Piece, writer: kept.Writer) -> Scanned:
        account, fates, alphabet = Account(), Fates(), Alphabet()
        documents = 0
        for document in self._documents(piece, account):
            filtered = self.filters.apply(document)
            fates.count(filtered.fate, document.name, len(filtered.text))
            fates.find(filtered.findings)
            if filtered.fate is Fate.KEPT:
                writer.add(filtered.text, document.name)
                alphabet.add(filtered.text)
                documents += 1
        fates.merge_unread(account)
        return Scanned(documents, alphabet.counts(), account, fates.record())

    def _documents(self, piece: Piece, account: Account) -> Iterator[Document]:
        for document in read(piece, account):
            if piece.source in self.one_texts:
                yield from _sections(document)
            else:
                yield document


def one_texts_of(pieces: Sequence[Piece]) -> frozenset[str]:
    """The sources whose pieces are parts of one long text, which is divided where it stands."""
    texts: dict[str, set[str | None]] = {}
    for piece in pieces:
        texts.setdefault(piece.source, set()).add(piece.address if piece.format == TEXT else None)
    return frozenset(source for source, found in texts.items() if len(found) == 1 and None not in found)


def _sections(document: Document) -> Iterator[Document]:
    """A long text in sections that end with a line."""
    text, first = document.text, 0
    longest = min(SECTION, -(-len(text) // SECTIONS))
    while first < len(text):
        end = text.rfind("\n", first, first + longest) + 1 if first + longest < len(text) else len(text)
        end = end or first + longest
        yield Document(text[first:end], f"{document.name}+{first}", document.source)
        first = end


class Alphabet:
    """Counts characters, a megabyte at a time."""

    def __init__(self) -> None:
        self._counts = np.zeros(ALL_CHARACTERS, np.int64)
        self._texts: list[str] = []
        self._pending = 0

    def add(self, text: str) -> None:
        self._texts.append(text)
        self._pending += len(text)
        if self._pending >= COUNTED_AT_ONCE:
            self._count()

    def counts(self) -> dict[str, int]:
        """How often each character occurred, in the order of their codes."""
        self._count()
        codes = np.flatnonzero(self._counts)
        return dict(zip(map(chr, codes.tolist()), self._counts[codes].tolist(), strict=True))

    def _count(self) -> None:
        codes = np.frombuffer("".join(self._texts).encode("utf-32-le"), np.uint32)
        counted = np.bincount(codes)
        self._counts[: len(counted)] += counted
        self._texts, self._pending = [], 0


def kept_file(folder: Path, number: int) -> Path:
    """Where the documents lie that were kept of piece `number`."""
    return folder / f"piece-{number:06d}.parquet"


def _note_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _done(path: Path, key: str) -> Scanned | None:
    """What was done of a piece before, if it is whole and of the same settings."""
    note, _ = durable.read_note(_note_of(path))
    try:
        if note is None or note["key"] != key or path.stat().st_size != note["bytes"]:
            return None
        return from_json(Scanned, note["scanned"])
    except (KeyError, OSError, ValueError):
        return None
