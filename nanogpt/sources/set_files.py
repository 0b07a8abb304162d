"""As much of a data set as is asked for, as small parquet files of one column on this machine.

A span is some row groups of one file, about SPAN_BYTES of text: never a whole file of gigabytes, and of its columns the
text alone. Spans are cut by the file's own footer, so that they are the same wherever and whenever it is read. All runs
share them; each has a note with its sha256, which is checked before it is used again.
"""

from __future__ import annotations

import errno
import hashlib
import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

import pyarrow as pa  # with parquet, 0.2 s
import pyarrow.parquet as pq

from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.records import from_json, to_json
from nanogpt.sources import articles, data_set, outputs
from nanogpt.sources.formats import columnar
from nanogpt.sources.formats.compressed import Allowance
from nanogpt.sources.formats.family import Unreadable
from nanogpt.sources.formats.plain import decoded_line
from nanogpt.sources.formats.records import AUTO, choose_column
from nanogpt.sources.hub_address import HubAddress
from nanogpt.sources.part import Notify, Unobtainable, alone
from nanogpt.sources.places import CONVERTED, Gated, Listing, Missing, Place, first_line, places_of
from nanogpt.sources.transfers import Report, Transfer, run_all
from nanogpt.spelling import spelled
from nanogpt.units import MIB, byte_size

SPAN_BYTES = 8 * MIB  # of text: what one worker reads at once, and what a kill may cost
COLUMN = "text"  # in the small files, whatever it is called in the data set
SPARE_BYTES = 64 * MIB  # of the disk, beyond what is fetched


@dataclass(frozen=True)
class SetFile:
    """A parquet file of the data set. `sha256`: "" where the place does not say it."""

    path: str
    size: int
    split: str
    sha256: str = ""


@dataclass(frozen=True)
class Chosen:
    """The files of one configuration, as they were found first. `revision`: of all later requests; `licence`: what the
    set's card says."""

    origin: str
    revision: str
    files: list[SetFile]
    licence: str | None = None


@dataclass(frozen=True)
class Span:
    """Row groups [first, end) of a file. `bytes` of text and `stored_bytes` as its footer says."""

    file: SetFile
    first: int
    end: int
    bytes: int
    stored_bytes: int
    local: Path


@dataclass(frozen=True)
class SpanText:
    """What a span's file holds: its rows, their bytes in UTF-8, and the sha256 of the file and of the rows' text."""

    rows: int
    bytes: int
    text_sha256: str
    file_sha256: str


@dataclass(frozen=True)
class SetText:
    """The spans that are here, in their order. `shortfall`: why they are less than was asked for."""

    spans: list[tuple[Span, SpanText]]
    chosen: Chosen
    shortfall: str | None = None

    @property
    def bytes(self) -> int:
        return sum(text.bytes for span, text in self.spans if span.file.split == "train")


class _Attempt:
    """Transfers from one place. Those that are still under way when another place is tried write nothing any more: two
    threads would write the same file."""

    def __init__(self) -> None:
        self._is_on, self._lock = True, Lock()

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Yields whether the attempt is on; it stays so meanwhile."""
        with self._lock:
            yield self._is_on

    def end(self) -> None:
        with self._lock:
            self._is_on = False


class SetCopy:
    """The copy of a data set in `folder`, which grows as more is asked for. `digests`: sha256 of files by path, as far
    as they are known here."""

    def __init__(self, address: HubAddress, folder: Path, notify: Notify, digests: Mapping[str, str] | None = None):
        self.address, self.notify, self.digests = address, notify, digests or {}
        what = f"{address.config or 'default'}@{address.revision}{f':{address.column}' if address.column else ''}"
        self.folder = folder / "sets" / f"{address.owner}--{address.name}" / _flat(what)
        self._note = self.folder / "files.json"

    def fetch(self, wanted_bytes: int | None, mirrors: Sequence[str], held_out: bool, report: Report) -> SetText:
        """At least `wanted_bytes` of text to train on (None: all), and the splits `held_out` by its publishers.

        What is here already is not asked for again. Without a place that answers, what is here. Raises UserError for
        what a person can mend, Unobtainable when nothing is here, OSError for a full disk.
        """
        outputs.mark(self.folder.parent.parent)
        with alone(self.folder / ".lock", self.folder, self._arrived, self.notify):
            if (here := self.here(wanted_bytes, held_out)) and not here.shortfall:
                return here
            failures: list[Unobtainable] = []
            for place in places_of(self.address, mirrors):
                if failures:
                    self.notify(str(failures[-1]), "tried the next place")
                try:
                    return self._fetch_from(place, wanted_bytes, held_out, report)
                except Unobtainable as error:
                    failures.append(error)
            return self._fallen_back(failures, wanted_bytes, held_out)

    def here(self, wanted_bytes: int | None, held_out: bool) -> SetText | None:
        """What of it is on this machine, whole; None for nothing. Asks nobody."""
        chosen = self._chosen()
        if chosen is None:
            return None
        found: list[tuple[Span, SpanText]] = []
        try:
            for span in self._spans(chosen, None, wanted_bytes, held_out):
                text = _whole(span.local)
                if text is None:
                    return SetText(found, chosen, "not all of it is here") if found else None
                found.append((span, text))
        except Unobtainable as error:  # the footer of the next file is not here
            return SetText(found, chosen, str(error)) if found else None
        return SetText(found, chosen)

    def least_bytes_at(self, place: Place) -> int:
        """Of the text to train on: those of its files, which are compressed. Raises UserError for a configuration that
        is not there, Unobtainable where the place has no such data set."""
        return sum(file.size for file in self._choose(place).files if file.split == "train")

    def _fallen_back(self, failures: Sequence[Unobtainable], wanted: int | None, held_out: bool) -> SetText:
        reasons = "; ".join(dict.fromkeys(map(str, failures)))
        here = self.here(wanted, held_out)
        if here is not None and here.bytes:
            self.notify(reasons, f"learning from the {byte_size(here.bytes)} of {self.address} that are here")
            return SetText(here.spans, here.chosen, reasons)
        if isinstance(failures[-1], Gated):
            raise UserError(f"data.source: {reasons}; a token of one who did goes into HF_TOKEN")
        if isinstance(failures[-1], Missing):
            raise UserError(f"data.source: {reasons} (HF_TOKEN holds the token for a private one)")
        raise Unobtainable(f"{self.address} could not be obtained ({reasons})")

    def _fetch_from(self, place: Place, wanted: int | None, held_out: bool, report: Report) -> SetText:
        chosen = self._agreed(place)
        spans = list(self._spans(chosen, place, wanted, held_out))
        missing = [span for span in spans if _whole(span.local) is None]
        self._require_room(sum(span.stored_bytes for span in missing))
        attempt = _Attempt()
        try:
            run_all(
                [Transfer(span.stored_bytes, partial(self._copy, place, chosen, span, attempt)) for span in missing],
                report,
            )
        finally:
            attempt.end()
        texts = [(span, _whole(span.local)) for span in spans]
        whole = [(span, text) for span, text in texts if text is not None]
        if len(whole) < len(spans):
            raise Unobtainable(f"{spelled(self.folder)} was changed while it was written")
        return SetText(whole, chosen)

    def _agreed(self, place: Place) -> Chosen:
        """The files as they were found first, if this place has the same; else, the first time, as it has them."""
        before = self._chosen()
        if before is None:
            chosen = self._choose(place)
            durable.write_note(self._note, to_json(chosen))
            return chosen
        listing = place.listing(before.revision)
        if any(listing.sizes.get(file.path) != file.size for file in before.files):
            raise Unobtainable(f"{place.shown} has another version of it than was begun with")
        return before

    def _choose(self, place: Place) -> Chosen:
        listing, revision = place.listing(self.address.revision), self.address.revision
        splits = data_set.files_of(self.address, listing)
        if not splits and place.converts:
            with suppress(Missing):
                listing, revision = place.listing(CONVERTED), CONVERTED
                splits = data_set.converted_files_of(self.address, listing)
        if not splits.get("train"):
            raise Missing(f"{place.shown} has no parquet files to train on")
        files = [
            SetFile(path, listing.sizes[path], split, self._checked_digest(place, listing, path))
            for split, paths in splits.items()
            for path in paths
        ]
        commit = f" at {listing.commit[:12]}" if listing.commit else ""
        licence = listing.card.get("license")
        stated = ", ".join(map(str, licence)) if isinstance(licence, list) else licence
        return Chosen(f"{place.shown}{commit}", listing.commit or revision, files, str(stated) if stated else None)

    def _checked_digest(self, place: Place, listing: Listing, path: str) -> str:
        known, found = self.digests.get(path), listing.digests.get(path)
        if known and not found:
            found = place.sha256(path)
        if known and found and known != found:
            raise Unobtainable(f"{place.shown} has another {path} than is known here (sha256 differs)")
        return found or ""

    def _spans(self, chosen: Chosen, place: Place | None, wanted: int | None, held_out: bool) -> Iterator[Span]:
        """Held-out splits whole, then as much to train on as is wanted. Reads footers as they are needed."""
        for split in ("val", "test") if held_out else ():
            for file in (file for file in chosen.files if file.split == split):
                yield from self._spans_of(file, self._footer(chosen, place, file))
        bytes = 0
        for file in (file for file in chosen.files if file.split == "train"):
            if wanted is not None and bytes >= wanted:
                return
            for span in self._spans_of(file, self._footer(chosen, place, file)):
                if wanted is not None and bytes >= wanted:
                    return
                yield span
                bytes += span.bytes

    def _spans_of(self, file: SetFile, footer: pq.FileMetaData) -> Iterator[Span]:
        column = footer.schema.names.index(self._column(footer.schema.to_arrow_schema()))
        first, bytes, stored = 0, 0, 0
        for index in range(footer.num_row_groups):
            chunk = footer.row_group(index).column(column)
            bytes, stored = bytes + chunk.total_uncompressed_size, stored + chunk.total_compressed_size
            if bytes >= SPAN_BYTES or index == footer.num_row_groups - 1:
                name = f"{first:06d}-{index + 1:06d}.parquet"
                yield Span(file, first, index + 1, bytes, stored, self._folder_of(file) / name)
                first, bytes, stored = index + 1, 0, 0

    def _footer(self, chosen: Chosen, place: Place | None, file: SetFile) -> pq.FileMetaData:
        """From here, else from the place, and then it is here. One that changed on the disk would end the process."""
        path = self._folder_of(file) / "footer"
        note, _ = durable.read_note(_note_of(path))
        with suppress(OSError, pa.ArrowException):
            if note is not None and durable.sha256_file(path) == note.get("file_sha256"):
                return pq.read_metadata(path)
        if place is None:
            raise Unobtainable(f"{file.path} of {self.address} is not here")
        footer = _parquet(place, chosen, file).metadata
        buffer = io.BytesIO()
        footer.write_metadata_file(buffer)
        durable.write_bytes(path, buffer.getvalue())
        durable.write_note(_note_of(path), {"file_sha256": _sha256(buffer.getvalue())})
        return footer

    def _copy(self, place: Place, chosen: Chosen, span: Span, attempt: _Attempt) -> None:
        """Fetch one span and write its file, then its note; nothing when the attempt has ended meanwhile."""
        footer = self._footer(chosen, place, span.file)
        column = self._column(footer.schema.to_arrow_schema())
        groups, allowance = range(span.first, span.end), Allowance(span.stored_bytes)
        remote = place.open(span.file.path, span.file.size, chosen.revision)
        try:
            found = columnar.values(remote, footer, groups, column, allowance, pre_buffer=True)
            rows = [value if isinstance(value, str) else _text_of(value) for value in found]
        except (pa.ArrowException, OSError, UnicodeError, Unreadable) as error:
            raise Unobtainable(f"{place.shown} has a damaged {span.file.path} ({first_line(error)})") from error
        if self.address.rows == "wikitext":
            rows = list(articles.joined(rows))
        content = _as_parquet(rows)
        text = SpanText(len(rows), sum(len(row.encode()) for row in rows), _digest_of(rows), _sha256(content))
        with attempt.writing() as is_on:
            if is_on:
                durable.write_bytes(span.local, content)
                durable.write_note(_note_of(span.local), to_json(text))

    def _column(self, schema: pa.Schema) -> str:
        """The column of the text. Raises UserError."""
        try:
            return choose_column(columnar.columns_of_text(schema), self.address.column or AUTO)
        except Unreadable as error:
            raise UserError(f"data.source: {self.address.repository}: {error}") from None

    def _require_room(self, bytes: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if bytes and free < bytes + SPARE_BYTES:
            words = f"No space left on device: {byte_size(bytes)} are to come, {byte_size(free)} are free"
            raise OSError(errno.ENOSPC, words, str(self.folder))

    def _chosen(self) -> Chosen | None:
        note, _ = durable.read_note(self._note)
        try:
            return from_json(Chosen, note) if note is not None else None
        except (TypeError, ValueError, KeyError):  # of another version
            return None

    def _folder_of(self, file: SetFile) -> Path:
        return self.folder / f"{_flat(file.path)}.{file.size}{f'.{file.sha256[:12]}' if file.sha256 else ''}"

    def _arrived(self) -> int:
        return sum(1 for _ in self.folder.rglob("*.parquet"))


def _parquet(place: Place, chosen: Chosen, file: SetFile) -> pq.ParquetFile:
    """Open for reading by ranges."""
    try:
        return pq.ParquetFile(place.open(file.path, file.size, chosen.revision))
    except pa.ArrowException as error:
        raise Unobtainable(f"{place.shown}: {file.path} is no parquet file ({first_line(error)})") from error


def _as_parquet(rows: Sequence[str]) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({COLUMN: pa.array(rows, pa.large_string())})
    pq.write_table(table, buffer, compression="zstd", row_group_size=max(1, len(rows)), use_dictionary=False)
    return buffer.getvalue()


def _whole(local: Path) -> SpanText | None:
    """What the file of a span holds, if it is there and what was written."""
    note, _ = durable.read_note(_note_of(local))
    try:
        text = from_json(SpanText, note) if note is not None else None
        return text if text is not None and durable.sha256_file(local) == text.file_sha256 else None
    except (OSError, TypeError, ValueError, KeyError):
        return None


def _note_of(local: Path) -> Path:
    return local.with_suffix(".json")


def _text_of(row: bytes | None) -> str:
    return decoded_line(row, AUTO).text if row else ""


def _digest_of(rows: Sequence[str]) -> str:
    found = hashlib.sha256()
    for row in rows:
        encoded = row.encode()
        found.update(len(encoded).to_bytes(8, "little") + encoded)
    return found.hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _flat(name: str) -> str:
    """A path as the name of one folder."""
    return name.replace("/", "__").replace(":", "__")
