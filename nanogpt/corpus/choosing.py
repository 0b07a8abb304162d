"""Which way a text goes: through memory as one, as small ones do, or in pieces; and the pieces of those that do."""

from __future__ import annotations

from pathlib import Path

from nanogpt.config import SMALL_TEXT, DataConfig
from nanogpt.faults import UserError
from nanogpt.machine import cores, memory_bytes
from nanogpt.sources import own
from nanogpt.sources.account import Account
from nanogpt.sources.catalogue import CATALOGUE
from nanogpt.sources.embedded import FIRST_BYTES
from nanogpt.sources.formats.family import Wanted
from nanogpt.sources.kinds import kind_of
from nanogpt.sources.part import Notify, Unobtainable, say_nothing
from nanogpt.sources.pieces import FetchedPieces, fetch_pieces
from nanogpt.sources.transfers import Report, no_report

WORKER_BYTES = 1 << 29  # of memory: a process at a piece took 270 MB


def is_small(source: str, wanted_bytes: int | None = None) -> bool:
    """Whether a source goes through memory as one text. Raises UserError where it is a person's own and not there.

    Of the embedded corpus, more than what every Python has goes in pieces.
    """
    kind = kind_of(source)
    if kind == "own":
        return own.is_small(source)
    if kind == "embedded":
        return (wanted_bytes or 0) <= FIRST_BYTES
    return kind == "file" and CATALOGUE[source].bytes <= SMALL_TEXT


def gather(
    source: str,
    config: DataConfig,
    downloads: Path,
    wanted_bytes: int | None = None,
    notify: Notify = say_nothing,
    report: Report = no_report,
) -> tuple[FetchedPieces, Account]:
    """The pieces of a source, fetched where they are not on this machine, and what stands among its texts and is none.

    Raises UserError, OSError.
    """
    wanted, others = Wanted.of(config), Account()
    try:
        return fetch_pieces(source, wanted_bytes, config.mirrors, downloads, notify, report, wanted, others), others
    except Unobtainable as error:
        raise UserError(f"data.source: {error}") from None


def sensible_workers() -> int:
    """A process for each core, as far as the memory reaches."""
    return max(1, min(cores(), memory_bytes() // 2 // WORKER_BYTES))
