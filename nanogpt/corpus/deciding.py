"""Between the passes: over all documents of a corpus, which are kept, and which split each falls in.

What is known of all documents lies in files that are memory-mapped; of the result, a byte a document and a row a piece.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt

from nanogpt import durable
from nanogpt.config import DataConfig
from nanogpt.corpus import kept
from nanogpt.corpus.fates import Fate, Fates
from nanogpt.corpus.fingerprints import SLOTS, Fingerprints
from nanogpt.corpus.scanning import Scan, Scanned, kept_file
from nanogpt.corpus.splitting import FATES as COMPARED
from nanogpt.corpus.splitting import LARGEST_HELD_OUT, TRAIN, HeldOut, by_place, divide, like_published
from nanogpt.data.texts import SPLITS
from nanogpt.records import from_json, to_json
from nanogpt.results.text import DocumentFates
from nanogpt.sources.document import Piece

LEFT_OUT = 255  # in place of a split
FATES = (*COMPARED, Fate.NOT_NEEDED)
VERSION = 1
_NOTE, _CODES, _INDEX = "decided.json", "decided.splits", "decided.pieces"
Codes = npt.NDArray[np.uint8]
_Integer = TypeVar("_Integer", bound=np.integer[Any])


@dataclass(frozen=True)
class Decided:
    """What every document of a corpus is. `sha256`: of the texts that are kept, in order, and where each falls.

    `key` is the digest of what decided it. `fates` are those of all documents. `one_texts`: the sources that are one
    long text each, in sections.
    """

    key: str
    sha256: str
    sources: list[str]
    one_texts: list[str]
    fates: DocumentFates


class Decisions:
    """What was decided, read from `folder`."""

    def __init__(self, folder: Path, decided: Decided):
        self.folder, self.decided = folder, decided
        self._codes: Codes = np.memmap(folder / _CODES, np.uint8, "r") if (folder / _CODES).stat().st_size else _NONE

    @cached_property
    def index(self) -> npt.NDArray[np.int64]:
        """(P, 2 + 3 * 5): first document and source of a piece, then documents and their kept.SIZES in each split."""
        return np.fromfile(self.folder / _INDEX, np.int64).reshape(-1, _COLUMNS)

    def documents(self, piece: int, split: int) -> npt.NDArray[np.int64]:
        """The numbers of those documents of a piece that fall in a split."""
        first = int(self.index[piece, 0])
        end = int(self.index[piece + 1, 0]) if piece + 1 < len(self.index) else len(self._codes)
        return np.flatnonzero(self._codes[first:end] == split)

    def sizes(self, split: int) -> npt.NDArray[np.int64]:
        """(P, 5): documents, characters, bytes, lines and words of each piece in a split."""
        return self.index[:, _columns_of(split)]

    def ends(self, split: int) -> npt.NDArray[np.int64]:
        """(P,): how many texts end in each piece. One long text ends once, where others follow it in the split."""
        found = self.sizes(split)[:, 0].copy()
        for number, source in enumerate(self.decided.sources):
            if source in self.decided.one_texts:
                there = np.flatnonzero((self.index[:, 1] == number) & (found > 0))
                found[there] = 0
                found[there[-1:]] = len(self.decided.sources) > 1
        return found

    def texts(self, piece: int, split: int) -> Iterator[tuple[str, bool]]:
        """The texts of a piece in a split, in order, and whether each ends there. Raises CorruptFileError."""
        if len(numbers := self.documents(piece, split)):
            unfinished = len(numbers) - int(self.ends(split)[piece])
            for place, (_, text) in enumerate(kept.read_texts(kept_file(self.folder, piece), numbers)):
                yield text, place >= unfinished


_FIGURES = 1 + len(kept.SIZES)  # of the documents in a split
_COLUMNS = 2 + _FIGURES * len(SPLITS)
_NONE = np.zeros(0, np.uint8)
_AT_ONCE = 1 << 20  # bytes


def _columns_of(split: int) -> slice:
    return slice(2 + _FIGURES * split, 2 + _FIGURES * (split + 1))


def read_decisions(folder: Path) -> Decisions | None:
    """What was decided of the pieces in `folder`; None where nothing was, or it is not what was written."""
    note, _ = durable.read_note(folder / _NOTE)
    try:
        if note is None or note.get("files") != _digests(folder):
            return None
        return Decisions(folder, from_json(Decided, note.get("decided")))
    except (OSError, ValueError):
        return None


def _digests(folder: Path) -> dict[str, str]:
    """Of what a kill may leave to another decision than the note's."""
    return {name: durable.sha256_file(folder / name) for name in (_CODES, _INDEX)}


def decide(
    scan: Scan,
    pieces: Sequence[Piece],
    scanned: Sequence[Scanned],
    config: DataConfig,
    pulse: Callable[[], None] = lambda: None,
) -> Decisions:
    """Decide over all documents that `scan` kept of `pieces`. Raises UserError where there are too few to split."""
    folder = scan.folder
    rule = config.model_dump(include={"val_fraction", "test_fraction", "near_duplicates", "similarity"})
    key = durable.digest([VERSION, rule, [scan.key_of(piece) for piece in pieces]])
    if (before := read_decisions(folder)) is not None and before.decided.key == key:
        return before
    counts = [piece.documents for piece in scanned]
    firsts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    sizes, prints = _gathered(folder, firsts, scan.sketched, pulse)
    codes, crossings = _divided(pieces, firsts, sizes[:, 0], prints, config, scan.one_texts)
    fates = Fates()
    digest, index = hashlib.sha256(), np.zeros((len(pieces), _COLUMNS), np.int64)
    sources = list(dict.fromkeys(piece.source for piece in pieces))
    for number, piece in enumerate(pieces):
        pulse()
        first, end = firsts[number], firsts[number + 1]
        own = codes.splits[first:end]
        index[number, :2] = first, sources.index(piece.source)
        for split in range(len(SPLITS)):
            inside = own == split
            index[number, _columns_of(split)] = inside.sum(), *sizes[first:end][inside].sum(axis=0)
        digest.update(prints.digests[first:end][own != LEFT_OUT].tobytes())
        digest.update(own.tobytes())
        fates.merge(scanned[number].fates)
        _take_out(fates, kept_file(folder, number), codes.fates[first:end], sizes[first:end, 0])
    fates_of_all = replace(fates.record(), crossings=crossings)
    decided = Decided(key, digest.hexdigest(), sources, sorted(scan.one_texts), fates_of_all)
    durable.write_bytes(folder / _CODES, codes.splits.tobytes())
    durable.write_bytes(folder / _INDEX, index.tobytes())
    durable.write_note(folder / _NOTE, {"decided": to_json(decided), "files": _digests(folder)})
    return Decisions(folder, decided)


@dataclass(frozen=True)
class _Codes:
    """(N,) each: places in FATES; places in SPLITS, or LEFT_OUT."""

    fates: Codes
    splits: Codes


def _gathered(
    folder: Path, firsts: npt.NDArray[np.int64], sketched: bool, pulse: Callable[[], None]
) -> tuple[kept.Numbers, Fingerprints]:
    """The sizes of all documents (N, 4) and their fingerprints, those of one piece behind the other, as files that have
    no name any more: what is not in memory is read again from the disk."""
    count, slots = int(firsts[-1]), SLOTS if sketched else 0
    sizes = _unnamed(folder, (count, len(kept.SIZES)), np.int64)
    digests, sketches = _unnamed(folder, (count, 2), np.uint64), _unnamed(folder, (count, slots), np.uint16)
    for number in range(len(firsts) - 1):
        pulse()
        here, path = slice(firsts[number], firsts[number + 1]), kept_file(folder, number)
        sizes[here] = kept.read_sizes(path)
        prints = kept.read_fingerprints(path, sketched)
        digests[here], sketches[here] = prints.digests, prints.sketches
    return sizes, Fingerprints(digests, sketches)


def _unnamed(folder: Path, shape: tuple[int, int], kind: type[_Integer]) -> npt.NDArray[_Integer]:
    if 0 in shape:
        return np.empty(shape, kind)
    with TemporaryFile(dir=folder) as file:
        try:
            _reserve(file, int(np.prod(shape)) * np.dtype(kind).itemsize)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(folder)) from error
        return np.memmap(file, kind, "r+", shape=shape)


def _reserve(file: IO[bytes], size: int) -> None:
    """Raises OSError where there is no room: to write into a map for which there is none ends the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for first in range(0, size, _AT_ONCE):  # macOS and Windows have no such call
        file.write(bytes(min(_AT_ONCE, size - first)))
    file.flush()


def _divided(
    pieces: Sequence[Piece], firsts: npt.NDArray[np.int64], characters: kept.Numbers, prints: Fingerprints,
    config: DataConfig, one_texts: Collection[str],
) -> tuple[_Codes, int]:  # fmt: skip
    """What each document is, and how many near duplicates would have crossed the wall.

    One long text is cut where it stands, whole: a paragraph that comes twice in a book belongs there.
    """
    fates, splits = np.zeros(len(characters), np.uint8), np.full(len(characters), TRAIN, np.uint8)
    one_text_of = {source: number for number, source in enumerate(sorted(one_texts), 1)}  # 0: documents
    texts = np.repeat(np.array([one_text_of.get(piece.source, 0) for piece in pieces], np.int16), np.diff(firsts))
    held_out = HeldOut.of(int(characters.sum()), config)
    for text in one_text_of.values():
        splits[texts == text] = by_place(characters[texts == text], held_out)
    documents = np.flatnonzero(texts == 0)
    if not len(documents):
        return _Codes(fates, splits), 0
    stated = [SPLITS.index(piece.options.get("split", SPLITS[TRAIN])) for piece in pieces]
    published = np.repeat(np.array(stated, np.uint8), np.diff(firsts))[documents]
    found, crossings = _divided_documents(published, characters[documents], _some(prints, documents), config)
    fates[documents], splits[documents] = found.fates, found.splits
    return _Codes(fates, splits), crossings


def _divided_documents(
    published: Codes, characters: kept.Numbers, prints: Fingerprints, config: DataConfig
) -> tuple[_Codes, int]:
    """The same of documents, of which each stands for itself, in `published` splits.

    Where the publisher divided the text, its own division holds: what it held out is whole (up to what evaluation
    reads), and what of the rest is the same, or nearly, is left out of the training text.
    """
    own = np.flatnonzero(published == TRAIN)
    division = divide(_some(prints, own), characters[own], config)
    fates, splits = np.zeros(len(characters), np.uint8), published.copy()
    fates[own], splits[own] = division.fates, division.splits
    held_out = np.flatnonzero(published != TRAIN) if len(own) < len(published) else np.zeros(0, np.int64)
    for split in np.unique(published[held_out]).tolist():
        theirs = held_out[published[held_out] == split]
        is_read = np.cumsum(characters[theirs]) <= LARGEST_HELD_OUT
        fates[theirs[~is_read]] = FATES.index(Fate.NOT_NEEDED)
        if is_read.any():  # else the split has what is held out here, as without a publisher's
            splits[own[splits[own] == split]] = TRAIN
    crossings = division.crossings
    if len(held_out):
        alike = like_published(prints, published, config)
        fates = np.where(fates == 0, alike, fates)
        crossings += int((alike == FATES.index(Fate.NEAR_DUPLICATE)).sum())
    return _Codes(fates, np.where(fates == 0, splits, LEFT_OUT).astype(np.uint8)), crossings


def _some(prints: Fingerprints, numbers: npt.NDArray[np.int64]) -> Fingerprints:
    """The fingerprints of some documents: a view of the files, where these stand together."""
    is_together = len(numbers) > 0 and len(numbers) == numbers[-1] + 1 - numbers[0]
    which = slice(numbers[0], numbers[-1] + 1) if is_together else numbers
    return Fingerprints(prints.digests[which], prints.sketches[which])


def _take_out(fates: Fates, path: Path, codes: Codes, characters: kept.Numbers) -> None:
    """Count what a piece kept and is left out after all."""
    if len(numbers := np.flatnonzero(codes)):
        names = kept.read_names(path)
        for number in numbers.tolist():
            fates.take_from_kept(FATES[codes[number]], names[number], int(characters[number]))
