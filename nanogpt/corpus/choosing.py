"""Which way a text goes: through memory as one, as small ones do, or in pieces; and the pieces of those that do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nanogpt.config import DataConfig
from nanogpt.faults import UserError
from nanogpt.machine import cores, memory_bytes
from nanogpt.sources import own
from nanogpt.sources.account import Account
from nanogpt.sources.catalogue import CATALOGUE
from nanogpt.sources.document import Piece
from nanogpt.sources.formats.family import Wanted
from nanogpt.sources.kinds import kind_of
from nanogpt.sources.own_pieces import own_pieces
from nanogpt.sources.part import Notify, Unobtainable, say_nothing
from nanogpt.sources.pieces import fetch_pieces
from nanogpt.sources.transfers import Report, no_report

SMALL = 64_000_000  # bytes: as one text it takes half a gigabyte of memory
WORKER_BYTES = 1 << 29  # of memory: a process at a piece took 270 MB
IN_PIECES_ONLY = {  # what is looked at document by document
    "unicode", "min_characters", "max_characters", "near_duplicates", "similarity", "quality", "language", "profanity",
    "private_data",
}  # fmt: skip


@dataclass(frozen=True)
class Gathered:
    """The pieces of a source, where they came from, and what stands among its texts and is none."""

    pieces: list[Piece]
    origin: str
    others: Account
    shortfall: str | None = None


def is_small(source: str, config: DataConfig) -> bool:
    """Whether a source goes through memory as one text: it is small, and no filter of documents is asked for.

    Raises UserError where it is a person's own and is not there.
    """
    if config.model_dump(include=IN_PIECES_ONLY) != DataConfig().model_dump(include=IN_PIECES_ONLY):
        return False
    kind = kind_of(source)
    if kind == "own":
        return own.measure(source)[1] <= SMALL
    return kind == "embedded" or (kind == "file" and CATALOGUE[source].bytes <= SMALL)


def gather(
    source: str,
    config: DataConfig,
    downloads: Path,
    wanted_bytes: int | None = None,
    notify: Notify = say_nothing,
    report: Report = no_report,
) -> Gathered:
    """The pieces of a source, fetched where they are not on this machine. Raises UserError, OSError."""
    wanted, others = Wanted(config.encoding, config.column, config.repair), Account()
    if kind_of(source) == "own":
        return Gathered(own_pieces(source, wanted, others), source, others)
    try:
        found = fetch_pieces(source, wanted_bytes, config.mirrors, downloads, notify, report)
    except Unobtainable as error:
        raise UserError(f"data.source: {error}") from None
    pieces = [replace(piece, options={**piece.options, "repair": "true"}) for piece in found.pieces]
    return Gathered(pieces if config.repair else found.pieces, found.origin, others, found.shortfall)


def sensible_workers() -> int:
    """A process for each core, as far as the memory reaches."""
    return max(1, min(cores(), memory_bytes() // 2 // WORKER_BYTES))
