"""The first pass over a corpus: a piece is read, brought into its normal form and filtered, and what is kept lies in one
file, with what decides about it later.

A pure function of the piece and the settings. What it writes is whole or absent, so a piece that was done is not done
again, and the bytes are the same whoever does it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanogpt import durable
from nanogpt.config import DataConfig
from nanogpt.corpus import kept
from nanogpt.corpus.fates import Fate, Fates
from nanogpt.corpus.filters import Filters
from nanogpt.records import from_json, to_json
from nanogpt.results import DocumentFates
from nanogpt.sources.account import Account
from nanogpt.sources.document import Piece
from nanogpt.sources.reading import read

VERSION = 1  # of what is done to a piece: files of another one are made again
COUNTED_AT_ONCE = 1 << 20  # characters
ALL_CHARACTERS = 0x110000


@dataclass(frozen=True)
class ScanTask:
    number: int  # of the piece in its source
    piece: Piece


@dataclass(frozen=True)
class Scanned:
    """What was kept of a piece. `alphabet`: how often each character occurs in it.

    `words` are those that white space divides: to find them with a regular expression would take a tenth of the pass.
    """

    documents: int
    characters: int
    bytes: int
    lines: int
    words: int
    alphabet: dict[str, int]
    account: Account
    fates: DocumentFates


@dataclass(frozen=True)
class Scan:
    """What scans a source; crosses processes. `key`: the digest of the settings that decide what is kept."""

    folder: Path
    filters: Filters
    config: DataConfig
    key: str

    @classmethod
    def of(cls, folder: Path, config: DataConfig, filters: Filters, normal_form: str) -> Scan:
        """`normal_form`: the digest of a tokenizer that brings texts into its own, "" for the usual one."""
        settings = config.model_dump(include=DECISIVE)
        return cls(folder, filters, config, durable.digest([VERSION, settings, normal_form]))

    def __call__(self, task: ScanTask) -> Scanned:
        """Raises OSError where a piece's address cannot be read, or `folder` not be written."""
        path, key = kept_file(self.folder, task.number), durable.digest([self.key, to_json(task.piece)])
        if (before := _done(path, key)) is not None:
            return before
        with durable.replacing(path) as file, kept.Writer(file) as writer:
            scanned = self._keep(task.piece, writer)
        note = {"key": key, "bytes": path.stat().st_size, "scanned": to_json(scanned)}
        durable.write_note(_note(path), note)
        return scanned

    def _keep(self, piece: Piece, writer: kept.Writer) -> Scanned:
        account, fates, alphabet = Account(), Fates(), Alphabet()
        documents = characters = size = lines = words = 0
        for document in read(piece, account):
            filtered = self.filters.apply(document)
            fates.count(filtered.fate, document.name, len(filtered.text))
            fates.find(filtered.findings)
            if filtered.fate is not Fate.KEPT:
                continue
            text = filtered.text
            size += writer.add(kept.Kept(text, document.name, *sketch(text, self.config)))
            alphabet.count(text)
            documents, characters = documents + 1, characters + len(text)
            lines, words = lines + text.count("\n") + (not text.endswith("\n")), words + len(text.split())
        for reason, names in account.left_out.items():
            for _ in range(names):
                fates.count(reason, "", 0)
        return Scanned(documents, characters, size, lines, words, alphabet.counts(), account, fates.record())
