"""What every format shares: how its texts are wanted, what it gives, and how it says that it cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import Protocol

from nanogpt.config import DataConfig
from nanogpt.sources.account import Account
from nanogpt.sources.decoding import HEAD
from nanogpt.units import MIB

LONGEST = 64 * MIB  # bytes of one record, page or book: what a worker holds at once; a longer one is left out
_SMALL = 1 << 16
PART = 16 * MIB  # bytes of a long text that are one document: what a worker reads at once


class Unreadable(Exception):
    """A file is not what its name says, is damaged, or expands without end; the message says which."""


class TooLong(Exception):
    """A document has more than LONGEST bytes."""


@dataclass(frozen=True)
class Wanted:
    """How texts are read. `encoding`: "auto" or a name; `column`: of the text in records, "auto" for the likeliest."""

    encoding: str = "auto"
    column: str = "auto"
    repair: bool = False  # mojibake, with ftfy

    @classmethod
    def of(cls, config: DataConfig) -> Wanted:
        return cls(config.encoding, config.column, config.repair)


@dataclass(frozen=True)
class Text:
    """A text and where it lies in its file: "" for all of it, else a line, a row or a member."""

    text: str
    place: str = ""


class Reader(Protocol):
    """The texts in `file`, called `name`. What is no text is counted in `account`.

    Raises Unreadable, TooLong, UserError (not text), or what the format's library raises.
    """

    def __call__(self, file: BufferedReader, name: str, wanted: Wanted, account: Account) -> Iterator[Text]: ...


def whole(file: BufferedReader, longest: int = LONGEST) -> bytes:
    """All that is left in `file`. Raises TooLong."""
    data = up_to(file, longest + 1)
    if len(data) > longest:
        raise TooLong(f"more than {longest // MIB} MiB in one document")
    return data


def up_to(file: BufferedReader, size: int) -> bytes:
    """At most `size` bytes; a small file takes no more memory than it has: to reserve 16 MiB takes 0.1 ms."""
    data = file.read(min(size, _SMALL))
    return data + file.read(size - len(data)) if len(data) == _SMALL else data


def head_of(file: BufferedReader) -> bytes:
    """The first HEAD bytes of `file`, which stays where it is."""
    if not file.seekable():
        return file.peek(HEAD)
    place = file.tell()
    head = file.read(HEAD)
    file.seek(place)
    return head
