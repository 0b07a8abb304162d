"""The documents that a piece's filters kept, in one compressed file: written once, read column by column.

A parquet file, because what decides about documents reads their fingerprints without their texts, and what tokenises
them reads a few megabytes at a time. Pages carry checksums.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nanogpt import durable
from nanogpt.corpus.fingerprints import SLOTS, Fingerprints, fingerprints
from nanogpt.faults import CorruptFileError

ROW_GROUP = 4 << 20  # characters: what is in memory at once
TEXT, NAME, DIGEST, SKETCH = "text", "name", "digest", "sketch"
SIZES = ("characters", "bytes", "lines", "words")
Numbers = npt.NDArray[np.int64]


class Writer:
    """Writes documents into `file`, a row group at a time, with their fingerprints; `sketched`: near duplicates are
    looked for."""

    def __init__(self, file: BinaryIO, sketched: bool):
        sizes = [(name, pa.int64()) for name in SIZES]
        fields = [(TEXT, pa.large_string()), (NAME, pa.string()), *sizes, (DIGEST, pa.binary(16))]
        self._sketched = sketched
        self._schema = pa.schema([*fields, (SKETCH, pa.binary(2 * SLOTS))] if sketched else fields)
        self._file = pq.ParquetWriter(
            file, self._schema, compression={TEXT: "zstd", NAME: "zstd"}, use_dictionary=False, write_statistics=False,
            write_page_checksum=True,
        )  # fmt: skip
        self._texts: list[str] = []
        self._names: list[str] = []
        self._pending = 0  # characters

    def add(self, text: str, name: str) -> None:
        self._texts.append(text)
        self._names.append(name)
        self._pending += len(text)
        if self._pending >= ROW_GROUP:
            self._flush()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._file.close()

    def _flush(self) -> None:
        if not self._texts:
            return
        texts = pa.array(self._texts, pa.large_string())
        prints = fingerprints(self._texts, sketched=self._sketched)
        sizes = [
            [len(text) for text in self._texts],
            np.diff(np.frombuffer(texts.buffers()[1], np.int64)[: len(texts) + 1]),  # of the strings in UTF-8
            [text.count("\n") + (not text.endswith("\n")) for text in self._texts],
            [len(text.split()) for text in self._texts],
        ]
        columns = [texts, pa.array(self._names, pa.string()), *map(pa.array, sizes), _binary(prints.digests)]
        if self._sketched:
            columns.append(_binary(prints.sketches))
        self._file.write_table(pa.table(columns, self._schema))
        self._texts, self._names, self._pending = [], [], 0


def _binary(rows: npt.NDArray[np.unsignedinteger[Any]]) -> pa.Array:
    """(N, K) as N byte strings."""
    width = rows.shape[1] * rows.itemsize
    return pa.Array.from_buffers(pa.binary(width), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows).data)])


def read_sizes(path: Path) -> Numbers:
    """(N, 4): the SIZES of each document. Raises CorruptFileError, as the others here do.

    `words` are what white space parts: to find them with a regular expression would take a tenth of the pass.
    """
    table = _read(path, list(SIZES))
    return np.stack([table[name].to_numpy() for name in SIZES], axis=1)


def read_names(path: Path) -> list[str]:
    """The name of each document."""
    names: list[str] = _read(path, [NAME])[NAME].to_pylist()
    return names


def read_fingerprints(path: Path, sketched: bool) -> Fingerprints:
    """Of all documents, in order; `sketched` as they were written."""
    table = _read(path, [DIGEST, SKETCH] if sketched else [DIGEST])
    digests = _rows(table[DIGEST], np.uint64, 2)
    sketches = _rows(table[SKETCH], np.uint16, SLOTS) if sketched else np.empty((len(digests), 0), np.uint16)
    return Fingerprints(digests, sketches)


def _rows(column: pa.ChunkedArray, kind: type[np.unsignedinteger[Any]], width: int) -> npt.NDArray[Any]:
    """N byte strings as (N, width)."""
    if not len(column):
        return np.empty((0, width), kind)
    chunks = column.combine_chunks()
    chunk = chunks.chunk(0) if isinstance(chunks, pa.ChunkedArray) else chunks
    return np.frombuffer(chunk.buffers()[1], kind).reshape(-1, width)[chunk.offset : chunk.offset + len(chunk)]


def read_texts(path: Path, wanted: Numbers) -> Iterator[tuple[int, str]]:
    """(number, text) of those documents whose numbers are in `wanted`, ascending; a row group in memory at a time.

    Row groups without one are not read.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            first = 0
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                here = wanted[(wanted >= first) & (wanted < end)]
                if len(here):
                    texts = file.read_row_group(group, [TEXT])[TEXT]
                    for number in here.tolist():
                        yield number, texts[number - first].as_py()
                first = end
    except pa.ArrowMemoryError:  # the file is none the worse
        raise
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _read(path: Path, columns: list[str]) -> Any:
    try:
        return pq.read_table(path, columns=columns, page_checksum_verification=True, partitioning=None)
    except pa.ArrowMemoryError:  # the file is none the worse
        raise
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CorruptFileError:
    with contextlib.suppress(OSError):
        durable.set_aside(path)
    return CorruptFileError(f"{path} is damaged ({error}); it is set aside, and the next start makes it again")
