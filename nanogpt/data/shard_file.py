"""One shard: token ids in a binary file behind a header, and several of them read as one sequence.

A 64-byte header (magic, version, bytes per token, vocabulary size, token count, tokenizer digest; little-endian), then
the ids as uint16, or uint32 where the vocabulary needs it.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from nanogpt import durable
from nanogpt.faults import CorruptFileError

MAGIC = b"NANOGPT\0"
VERSION = 1
AT_ONCE = 1 << 24  # tokens: what is imported may be larger than the memory
_HEADER = struct.Struct("<8sIIQQ32s")
_DTYPES: dict[int, np.dtype[np.integer[Any]]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
Ids = npt.NDArray[np.integer[Any]]  # (T,)


def dtype_of(vocab_size: int) -> np.dtype[np.integer[Any]]:
    """What an id takes on the disk."""
    return _DTYPES[2 if vocab_size <= 1 << 16 else 4]


def write_shard(path: Path, tokens: Ids, vocab_size: int, tokenizer_digest: str) -> None:
    """Write `tokens` (T,) durably. Raises ValueError for an id outside the vocabulary."""
    if len(tokens) and int(tokens.max()) >= vocab_size:
        raise ValueError(f"{path.stem}: token {int(tokens.max())} is outside the vocabulary of {vocab_size}")
    kind = dtype_of(vocab_size)
    header = _HEADER.pack(MAGIC, VERSION, kind.itemsize, vocab_size, len(tokens), bytes.fromhex(tokenizer_digest))
    pieces = (tokens[start : start + AT_ONCE] for start in range(0, len(tokens), AT_ONCE))
    durable.write_pieces(path, itertools.chain([header], (piece.astype(kind).tobytes() for piece in pieces)))


@dataclass(frozen=True)
class Shard:
    """An opened shard: `tokens` (T,) is read from the disk as needed."""

    tokens: Ids
    vocab_size: int
    tokenizer_digest: str


def open_shard(path: Path) -> Shard:
    """Memory-map a shard. Raises CorruptFileError where header and length disagree, OSError without a file."""
    with open(path, "rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise CorruptFileError(f"{path} is cut short ({len(head)} bytes)")
    magic, version, width, vocab_size, count, digest = _HEADER.unpack(head)
    if magic != MAGIC or version != VERSION or width not in _DTYPES:
        raise CorruptFileError(f"{path} is not a token file of version {VERSION}")
    expected, found = _HEADER.size + count * width, path.stat().st_size
    if found != expected:
        raise CorruptFileError(f"{path} has {found:,} bytes where its header says {expected:,}")
    if not count:  # nothing to map
        return Shard(np.zeros(0, _DTYPES[width]), vocab_size, digest.hex())
    tokens = np.memmap(path, dtype=_DTYPES[width], mode="r", offset=_HEADER.size, shape=(count,))
    return Shard(tokens, vocab_size, digest.hex())


class Joined:
    """The ids of several shards, one behind the other, as one array (T,) is read: by place and by slice.

    A slice inside one shard is a view of its file; one across a border is a copy.
    """

    def __init__(self, parts: Sequence[Ids]):
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self.parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.parts else 0

    @cached_property
    def dtype(self) -> np.dtype[np.integer[Any]]:
        return np.result_type(*self.parts) if self.parts else np.dtype("<u2")

    @property
    def shape(self) -> tuple[int]:
        return (len(self),)

    @property
    def nbytes(self) -> int:
        return len(self) * self.dtype.itemsize

    @overload
    def __getitem__(self, place: int) -> np.integer[Any]: ...
    @overload
    def __getitem__(self, place: slice) -> Ids: ...
    def __getitem__(self, place: int | slice) -> np.integer[Any] | Ids:
        if not isinstance(place, slice):
            index = range(len(self))[place]  # IndexError as a list's, and negative places
            part = int(np.searchsorted(self._ends, index, side="right"))
            found: np.integer[Any] = self.parts[part][index - self._begin(part)]
            return found
        first, end, step = place.indices(len(self))
        if step != 1:
            return np.asarray(self)[place]
        return self._between(first, max(first, end))

    def _between(self, first: int, end: int) -> Ids:
        pieces = []
        part = int(np.searchsorted(self._ends, first, side="right"))
        while first < end:
            begin, next_begin = self._begin(part), int(self._ends[part])
            pieces.append(self.parts[part][first - begin : min(end, next_begin) - begin])
            first, part = next_begin, part + 1
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.zeros(0, self.dtype)

    def _begin(self, part: int) -> int:
        return int(self._ends[part - 1]) if part else 0

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All of them in memory."""
        return np.asarray(self._between(0, len(self)), dtype=dtype, copy=copy)

    def max(self, initial: int = 0) -> int:
        return max([initial, *(int(part.max(initial=initial)) for part in self.parts)])

    def tolist(self) -> list[int]:
        found: list[int] = np.asarray(self).tolist()
        return found


Tokens = Ids | Joined  # (T,) of a split, in one file or several
