"""Compressed files (.gz, .zst) as they were before, and the limits of what may come out of anything packed."""

from __future__ import annotations

import io
from io import BufferedReader
from typing import BinaryIO, Protocol

from nanogpt.sources.decoding import HEAD
from nanogpt.sources.formats.family import PART, Unreadable

SUFFIXES = {".gz": "gzip", ".zst": "zstd"}  # pyarrow's names
# Text becomes 2 to 6 times smaller, a log 50 times; a bomb expands a thousand times and more.
MOST_EXPANSION = 200
HARMLESS = PART  # bytes that may come out whatever they were made of


class Allowance:
    """How many bytes may come out of one file of `packed` bytes, however often it is packed, in all its members."""

    def __init__(self, packed: int) -> None:
        self._left = most_expanded(packed)

    def take(self, size: int) -> None:
        """Count `size` bytes that came out. Raises Unreadable."""
        self._left -= size
        if self._left < 0:
            raise Unreadable(f"expands more than {MOST_EXPANSION} times, as a zip bomb does and no text")


def most_expanded(packed: int) -> int:
    """Bytes that may come out of `packed` bytes."""
    return max(HARMLESS, packed * MOST_EXPANSION)


def expanded(file: BufferedReader, kind: str, allowance: Allowance) -> BufferedReader:
    """The bytes that were compressed into `file`; `kind` is a value of SUFFIXES."""
    import pyarrow  # 0.17 s, which a plain text does without

    return limited(pyarrow.CompressedInputStream(pyarrow.PythonFile(_Lent(file), mode="r"), kind), allowance)


class Source(Protocol):
    """What bytes come out of."""

    def read(self, size: int = ..., /) -> bytes: ...


def limited(source: Source, allowance: Allowance) -> BufferedReader:
    """`source`, of which no more is read than `allowance` admits."""
    return BufferedReader(_Limited(source, allowance), HEAD)


class _Lent(io.RawIOBase):
    """A file that stays open when pyarrow closes what it was given."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._file.readinto(buffer)


class _Limited(io.RawIOBase):
    def __init__(self, source: Source | BinaryIO, allowance: Allowance) -> None:
        self._source, self._allowance = source, allowance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """As many bytes as fit, so that the first bytes of a file are the same however they were packed."""
        filled = 0
        while filled < len(buffer) and (data := self._source.read(len(buffer) - filled)):
            buffer[filled : filled + len(data)] = data
            filled += len(data)
        self._allowance.take(filled)
        return filled
