"""A source as pieces: what is downloaded first, and what each worker then reads at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.sources import outputs
from nanogpt.sources.catalogue import CATALOGUE, EMBEDDED
from nanogpt.sources.document import Piece
from nanogpt.sources.embedded import write_embedded
from nanogpt.sources.fetching import obtain
from nanogpt.sources.hub_address import HubAddress
from nanogpt.sources.kinds import hub_address_of, kind_of
from nanogpt.sources.own import own_documents, own_path
from nanogpt.sources.part import Notify, say_nothing
from nanogpt.sources.transfers import Report, no_report
from nanogpt.spelling import spelled


@dataclass(frozen=True)
class FetchedPieces:
    """Pieces on this machine. `bytes` of text to train on; `sha256` is of the text, the same wherever it came from.

    `shortfall`: why it is less than was asked for: no place answered, and these had been downloaded before.
    """

    pieces: list[Piece]
    origin: str
    bytes: int
    sha256: str
    shortfall: str | None = None


def pieces_of(
    source: str,
    wanted_bytes: int | None,
    mirrors: Sequence[str],
    folder: Path,
    notify: Notify = say_nothing,
    report: Report = no_report,
) -> list[Piece]:
    """fetch_pieces(), the pieces alone."""
    return fetch_pieces(source, wanted_bytes, mirrors, folder, notify, report).pieces


def fetch_pieces(
    source: str,
    wanted_bytes: int | None,
    mirrors: Sequence[str],
    folder: Path,
    notify: Notify = say_nothing,
    report: Report = no_report,
) -> FetchedPieces:
    """The pieces that hold at least `wanted_bytes` of text to train on (None: all). More bytes give the same pieces and
    then others.

    Downloads are kept in `folder`, which all runs share; what is there is not fetched again. A person's own files stay
    where they are. Where the publishers divided a set, options["split"] says train, val or test; pieces of val and
    test come first. `notify` gets each fault and its remedy, `report` how far a download is.
    Raises UserError for what a person can mend, Unobtainable when no place has it, OSError (a full disk).
    """
    kind, address = kind_of(source), hub_address_of(source)
    if address is not None:
        return _of_a_set(source, address, wanted_bytes, mirrors, folder, notify, report)
    if kind == "nanogpt":
        raise UserError(f"data.source: {source} holds token ids of nanoGPT's; nanogpt import-data takes it as it is")
    if kind == "own":
        documents = own_documents(source)
        pieces = [Piece("text", spelled(document), source) for document in documents]
        size = sum(document.stat().st_size for document in documents)
        digest = durable.digest([durable.sha256_file(document) for document in documents])
        return FetchedPieces(pieces, spelled(own_path(source)), size, digest)
    outputs.mark(folder)
    if kind == "embedded":
        path, origin = write_embedded(folder), EMBEDDED
    else:
        file = CATALOGUE[source].file
        assert file is not None
        path, origin = obtain(file, folder, mirrors, notify)
    piece = Piece("text", spelled(path), source)
    return FetchedPieces([piece], origin, path.stat().st_size, durable.sha256_file(path))


def _of_a_set(
    source: str,
    address: HubAddress,
    wanted_bytes: int | None,
    mirrors: Sequence[str],
    folder: Path,
    notify: Notify,
    report: Report,
) -> FetchedPieces:
    from nanogpt.sources.set_files import COLUMN, SetCopy  # pyarrow: 0.2 s

    known = CATALOGUE.get(source)
    is_divided = known is not None and known.split == "published"
    copy = SetCopy(address, folder, notify, known.digests if known else None)
    text = copy.fetch(wanted_bytes, mirrors, is_divided, report)
    pieces = [
        Piece(
            "parquet",
            spelled(span.local),
            source,
            options={"column": COLUMN, **({"split": span.file.split} if is_divided else {})},
        )
        for span, _ in text.spans
    ]
    digest = durable.digest([held.text_sha256 for _, held in text.spans])
    return FetchedPieces(pieces, text.origin, text.bytes, digest, text.shortfall)
