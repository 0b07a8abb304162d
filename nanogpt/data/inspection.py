"""Documents of a split as tokens that a person can look at: by number, or drawn at random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanogpt.data.shard_file import AT_ONCE
from nanogpt.data.shards import Split, open_split, read_manifest
from nanogpt.faults import UserError
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer

BACKWARDS = 1 << 16  # tokens looked at at once, for the beginning of a document


@dataclass(frozen=True)
class ShownToken:
    """`text`: as it is written; the bytes of half a character as <e2>."""

    id: int
    text: str


@dataclass(frozen=True)
class Excerpt:
    """A document, or as much of it as was asked for: from token `first` of its split on, with `left_out` more.

    `number`: of the document in its split, from 0; of a split without ends of texts, of the window in it.
    """

    split: str
    number: int
    first: int
    tokens: list[ShownToken]
    left_out: int
    unit: str = "document"

    @property
    def title(self) -> str:
        """`train, document 12: 240 tokens from 3,120 on`."""
        return f"{self.split}, {self.unit} {self.number:,}: {len(self.tokens):,} tokens from {self.first:,} on"


class Inspection:
    """One split of a data folder. Raises UserError, CorruptFileError.

    `most`: tokens of a document that are shown. Documents are what the tokenizer's end of a text divides; a split in
    which none is, such as one long text, counts as windows of `most` tokens.
    """

    def __init__(self, folder: Path, split: str, most: int):
        self.manifest = read_manifest(folder)
        self.tokenizer: Tokenizer = load_tokenizer(folder)
        self.split: Split = open_split(folder, split)
        self.most = most
        if not len(self.split.tokens):
            raise UserError(f"{folder}: its {split} has no tokens")
        self.has_documents = next(self._ends(), None) is not None

    def document(self, number: int) -> Excerpt:
        """The document of that number. Raises UserError where there are not so many."""
        if not self.has_documents:
            count = -(-len(self.split.tokens) // self.most)
            if number >= count:
                raise self._missing(number, f"{count:,} windows of {self.most:,} tokens")
            return self._excerpt(number, number * self.most, len(self.split.tokens))
        begin, place = 0, -1
        for place, end in enumerate(self._ends()):
            if place == number:
                return self._excerpt(number, begin, end)
            begin = end + 1
        if place + 1 == number and begin < len(self.split.tokens):
            return self._excerpt(number, begin, len(self.split.tokens))
        raise self._missing(number, f"{place + 1 + (begin < len(self.split.tokens)):,} documents")

    def drawn(self, count: int, seed: int) -> list[Excerpt]:
        """`count` documents at places drawn by `seed`, a long one more likely than a short one; none twice."""
        chance = random.Random(seed)
        found: dict[int, Excerpt] = {}
        for _ in range(20 * count):  # a split may have fewer
            excerpt = self._around(chance.randrange(len(self.split.tokens)))
            if excerpt.tokens:
                found.setdefault(excerpt.first, excerpt)
            if len(found) == count:
                break
        return list(found.values())

    def _missing(self, number: int, there: str) -> UserError:
        return UserError(f"--document: found {number}, but {self.split.name} has {there}, counted from 0")

    def _around(self, place: int) -> Excerpt:
        tokens, end = self.split.tokens, self.tokenizer.end_of_text
        if not self.has_documents:
            return self.document(place // self.most)
        begin, looked = 0, place
        while looked > 0:
            first = max(0, looked - BACKWARDS)
            ends = np.flatnonzero(tokens[first:looked] == end)
            if len(ends):
                begin = first + int(ends[-1]) + 1
                break
            looked = first
        pieces = (tokens[at : min(at + AT_ONCE, begin)] for at in range(0, begin, AT_ONCE))
        number = sum(int(np.count_nonzero(piece == end)) for piece in pieces)
        return self._excerpt(number, begin, next(self._ends(place), len(tokens)))

    def _ends(self, first: int = 0) -> Iterator[int]:
        """Where texts end, from `first` on."""
        tokens, end = self.split.tokens, self.tokenizer.end_of_text
        if end is None:
            return
        step = BACKWARDS
        while first < len(tokens):
            for found in np.flatnonzero(tokens[first : first + step] == end):
                yield first + int(found)
            first, step = first + step, AT_ONCE

    def _excerpt(self, number: int, begin: int, end: int) -> Excerpt:
        stop = min(end, begin + self.most)
        shown = [ShownToken(index, self._text(index)) for index in self.split.tokens[begin:stop].tolist()]
        if not self.has_documents:
            return Excerpt(self.split.name, number, begin, shown, 0, "window")
        return Excerpt(self.split.name, number, begin, shown, end - stop)

    def _text(self, index: int) -> str:
        text = self.tokenizer.decode_bytes([index]).decode("utf-8", errors="surrogateescape")
        return "".join(f"<{ord(sign) - 0xDC00:02x}>" if "\udc80" <= sign <= "\udcff" else sign for sign in text)
