"""One text, and the part of a source that is read at once to find texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Document:
    """One text, decoded and otherwise as it came. `name`: where it lies, as `spelled` writes it; `source`: its source's
    name, by which losses of a mixture are kept apart."""

    text: str
    name: str
    source: str


@dataclass(frozen=True)
class Piece:
    """What one worker reads at once: [first, end) of what `address` holds, in the units of its format.

    Bytes of a long text or of lines, row groups of a parquet file; end None: to the end. Plain values, so that a piece
    crosses processes, machines and JSON, and its digest says which work is done already.
    """

    format: str
    address: str  # a path as `spelled` writes it, or a URL that fsspec opens, without a password
    source: str
    first: int = 0
    end: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)  # such as the column of the text
