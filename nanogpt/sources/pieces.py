"""A source as pieces: what is downloaded first, and what each worker then reads at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.records import to_json
from nanogpt.sources import outputs
from nanogpt.sources.account import Account
from nanogpt.sources.catalogue import CATALOGUE, EMBEDDED, licence
from nanogpt.sources.document import Piece
from nanogpt.sources.embedded import EVERYTHING, write_embedded
from nanogpt.sources.fetching import obtain
from nanogpt.sources.formats.family import Wanted
from nanogpt.sources.hub_address import HubAddress
from nanogpt.sources.kinds import hub_address_of, kind_of
from nanogpt.sources.own import keep_standard_input, measure, own_path, parts_of
from nanogpt.sources.own_pieces import own_pieces, pieces_of_file
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
    licence: str | None = None  # None: nobody says it, or a person's own text, whose licence only they know
    shortfall: str | None = None


def fetch_pieces(
    source: str,
    wanted_bytes: int | None,
    mirrors: Sequence[str],
    folder: Path,
    notify: Notify = say_nothing,
    report: Report = no_report,
    wanted: Wanted | None = None,
    account: Account | None = None,
) -> FetchedPieces:
    """The pieces that hold at least `wanted_bytes` of text to train on (None: all). More bytes give the same pieces and
    then others.

    Downloads are kept in `folder`, which all runs share; what is there is not fetched again. A person's own files stay
    where they are. Where the publishers divided a set, options["split"] says train, val or test; pieces of val and
    test come first. `notify` gets each fault and its remedy, `report` how far a download is. `wanted`: how texts are
    read; `account` counts what stands among a person's files and is no text.
    Raises UserError for what a person can mend, Unobtainable when no place has it, OSError (a full disk).
    """
    wanted = wanted or Wanted()
    mended = {"repair": "true"} if wanted.repair else {}
    kind, address = kind_of(source), hub_address_of(source)
    if address is not None:
        if address.column is None and wanted.column != "auto":
            address = replace(address, column=wanted.column)
        return _of_a_set(source, address, wanted_bytes, mirrors, folder, notify, report, mended)
    if kind == "nanogpt":
        raise UserError(f"data.source: {source} holds token ids of nanoGPT's; nanogpt import-data takes it as it is")
    if kind == "own":
        return _own(keep_standard_input(source, folder), wanted, account)
    outputs.mark(folder)
    if kind == "embedded":
        path, origin = write_embedded(folder, EVERYTHING if wanted_bytes is None else wanted_bytes), EMBEDDED
    else:
        file = CATALOGUE[source].file
        assert file is not None
        path, origin = obtain(file, folder, mirrors, notify)
    pieces = pieces_of_file(path, source, Wanted(repair=wanted.repair))
    return FetchedPieces(pieces, origin, path.stat().st_size, durable.sha256_file(path), licence(source))


def _own(source: str, wanted: Wanted, account: Account | None) -> FetchedPieces:
    """`sha256` is over what the pieces say of their files: sizes and times, not every byte of a large folder."""
    pieces = own_pieces(source, wanted, account)
    origin = ", ".join(spelled(own_path(part).resolve()) for part in parts_of(source))
    digest = durable.digest([to_json(piece) for piece in pieces])
    return FetchedPieces(pieces, origin, measure(source)[1], digest)


def _of_a_set(
    source: str,
    address: HubAddress,
    wanted_bytes: int | None,
    mirrors: Sequence[str],
    folder: Path,
    notify: Notify,
    report: Report,
    mended: Mapping[str, str],
) -> FetchedPieces:
    from nanogpt.sources.set_files import COLUMN, SetCopy  # pyarrow: 0.2 s

    known = CATALOGUE.get(source)
    is_divided = known is not None and known.split == "published"
    copy = SetCopy(address, folder, notify, known.digests if known else None)
    text = copy.fetch(wanted_bytes, mirrors, is_divided, report)
    pieces = [
        Piece(
            "parquet",
            spelled(span.local.absolute()),
            source,
            options={"column": COLUMN, **({"split": span.file.split} if is_divided else {}), **mended},
        )
        for span, _ in text.spans
    ]
    digest = durable.digest([held.text_sha256 for _, held in text.spans])
    stated = licence(source) or text.chosen.licence
    return FetchedPieces(pieces, text.chosen.origin, text.bytes, digest, stated, text.shortfall)
