"""Where text comes from: a named source of the catalogue, a person's own file or folder, or the embedded corpus.

A download is tried from the mirrors (folders or URLs), then from its public homes, and is used only when its sha256 is
right. If all of them fail, the run takes the documentation that every CPython carries, and says so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.sources import hub_address, outputs
from nanogpt.sources.account import Account
from nanogpt.sources.catalogue import CATALOGUE, EMBEDDED, TINY_SHAKESPEARE, PublicFile
from nanogpt.sources.embedded import write_embedded
from nanogpt.sources.formats.family import Wanted
from nanogpt.sources.kinds import kind_of
from nanogpt.sources.own import Search, check_documents, files_of, find_own, measure, own_path, parts_of
from nanogpt.sources.part import Notify, Part, Unobtainable, say_nothing
from nanogpt.spelling import is_redacted, redacted, spelled

NAMED = 100  # documents


@dataclass(frozen=True)
class Fetched:
    """Text on this machine. `sha256` is over the documents' bytes in order; `bytes` is their sum.

    `origin` is an address without password, or a path as `spelled` writes it.
    """

    documents: list[Path]
    origin: str
    sha256: str
    bytes: int
    fallback_reason: str | None = None
    left_out: int = 0  # folders with output instead of text
    others: Account = field(default_factory=Account)  # what else was found and is no text

    def remarks(self) -> list[str]:
        """What a person should know of what was taken."""
        folders = "1 folder" if self.left_out == 1 else f"{self.left_out:,} folders"
        output = [f"{folders} with output of nanogpt or of tools left out of the text"] if self.left_out else []
        return [*output, *self.others.remarks()]


def check_source(source: str, mirrors: Sequence[str] = (), wanted: Wanted | None = None) -> None:
    """Refuse what cannot be learned from, before any work. Raises UserError; uses no network."""
    for mirror in mirrors:
        if is_redacted(mirror):
            raise UserError(f"data.mirror: {mirror}: *** stands for a password, which is not kept; give it again")
        if _is_url(mirror) and len(mirror.split()) > 1:  # a password with a blank could not be hidden
            raise UserError("data.mirror: found a URL with a blank; write it as %20")
        if _is_bucket(mirror):
            _require_s3fs(mirror)
        elif not _is_valid_url(mirror) and not os.path.isdir(own_path(mirror)):  # unlike Path's own, it never raises
            raise UserError(
                f"data.mirror: {redacted(mirror)} is neither a folder nor a http(s) URL or s3://BUCKET "
                "(a name with a comma: in a list)"
            )
    if hub_address.is_hub_address(source):
        hub_address.parse(source)
    elif source not in CATALOGUE and source != EMBEDDED:
        check_documents(find_own(source).documents, wanted or Wanted())


def fingerprint(source: str) -> str | dict[str, str]:
    """What changes when a person's own file or folder does; the digest or name for named sources.

    A digest for each document by its name, so that a message can name what changed; one digest for very many.
    """
    if source in CATALOGUE:
        return CATALOGUE[source].sha256 or str(CATALOGUE[source].hub)
    if source == EMBEDDED or hub_address.is_hub_address(source):
        return source
    named = {spelled(file.name): digest_of([file.path]) for file in files_of(source, Search())}
    return {name: digest[:12] for name, digest in named.items()} if len(named) <= NAMED else durable.digest(named)


def fetch(
    source: str,
    folder: Path,
    mirrors: Sequence[str] = (),
    notify: Notify = say_nothing,
    wanted: Wanted | None = None,
    or_embedded: bool = True,
) -> Fetched:
    """The documents of `source`; downloads and the embedded corpus are kept in `folder`.

    A person's own documents stay where they are. `notify` gets each fault and its remedy. `or_embedded`: what cannot be
    had is replaced by the embedded corpus.
    Raises UserError as check_source does, Unobtainable where nothing takes its place, OSError when `folder` cannot be
    written.
    """
    check_source(source, mirrors, wanted)
    if kind_of(source) == "hub":
        raise UserError(f"data.source: {source} comes in pieces, which this step does not take")
    if source not in CATALOGUE and source != EMBEDDED:
        found = find_own(source)
        origin = ", ".join(spelled(own_path(part).resolve()) for part in parts_of(source))
        return replace(_fetched(found.documents, origin), left_out=len(found.left_out), others=found.others)
    outputs.mark(folder)
    if source == EMBEDDED:
        return _fetched([write_embedded(folder)], EMBEDDED)
    file = CATALOGUE[source].file
    assert file is not None
    try:
        path, origin = obtain(file, folder, mirrors, notify)
    except Unobtainable as error:
        if not or_embedded:
            raise
        remedy = "learning from the embedded corpus instead"
        notify(str(error), remedy)
        return _fetched([write_embedded(folder)], EMBEDDED, f"{error}; {remedy}")
    return _fetched([path], origin)


def obtain(
    entry: PublicFile, folder: Path, mirrors: Sequence[str] = (), notify: Notify = say_nothing
) -> tuple[Path, str]:
    """The verified file of `entry` in `folder`, and where its bytes came from (a file already there: its public home).

    Raises Unobtainable when all mirrors and homes fail, OSError when `folder` cannot be written. If another process is
    downloading it without progress, mirrors that are folders are still tried.
    """
    part, failures = Part(folder / entry.file, entry.sha256, entry.bytes), list[str]()
    places = [*mirrors, *entry.homes]
    urls = [place for place in places if _is_url(place)]
    with ExitStack() as held:
        try:
            held.enter_context(part.alone(notify))
        except Unobtainable as error:
            failures.append(str(error))
            places = [place for place in places if not _is_url(place)]
        if _is_whole(part, notify):
            return part.whole, entry.homes[0]
        from nanogpt.sources.download import Patience, download  # requests: 70 ms, and seconds on a busy machine

        patience = Patience()
        for place in places:
            address = entry.at(place)
            try:
                if _is_url(place):
                    download(address, part, patience, place == urls[-1], notify)
                else:
                    _copy(entry, address, part.whole)
                return part.whole, spelled(address) if _is_folder(place) else redacted(address)
            except Unobtainable as error:
                failures.append(str(error))
                if place is not places[-1]:
                    notify(str(error), "tried the next place")
    raise Unobtainable(f"{entry.name} could not be obtained ({'; '.join(failures)})")


def _is_whole(part: Part, notify: Notify) -> bool:
    """Whether the file is already there, and right."""
    if not os.path.lexists(part.whole):
        return False
    try:
        if durable.sha256_file(part.whole) == part.sha256:
            return True
        problem = "sha256 differs"
    except OSError as error:
        problem = str(error.strerror)
    notify(f"{spelled(part.whole)} is not what it should be ({problem})", "fetched again")
    return False


def expected_bytes(source: str) -> int:
    """Bytes of the text that a source gives, as far as they are known before it is fetched. Raises UserError."""
    if source in CATALOGUE:
        return CATALOGUE[source].bytes
    if source == EMBEDDED or hub_address.is_hub_address(source):
        return TINY_SHAKESPEARE.bytes
    return measure(source)[1]


def digest_of(documents: list[Path]) -> str:
    """sha256 over the documents' bytes in order. Raises UserError when one cannot be read."""
    try:
        digests = [durable.sha256_file(path) for path in documents]
    except OSError as error:
        raise UserError(f"data.source: {spelled(error.filename)} cannot be read ({error.strerror})") from error
    return digests[0] if len(digests) == 1 else durable.digest(digests)


def _fetched(documents: list[Path], origin: str, fallback_reason: str | None = None) -> Fetched:
    size = sum(path.stat().st_size for path in documents)
    return Fetched(documents, origin, digest_of(documents), size, fallback_reason)


def _is_url(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _is_valid_url(place: str) -> bool:
    try:
        return _is_url(place) and bool(urlsplit(place).hostname)
    except ValueError:
        return False


def _is_bucket(place: str) -> bool:
    return place.startswith("s3://")


def _is_folder(place: str) -> bool:
    return not _is_url(place) and not _is_bucket(place)


def _require_s3fs(mirror: str) -> None:
    if find_spec("s3fs") is None:
        raise UserError(f"data.mirror: {redacted(mirror)} needs s3fs: pip install s3fs")


def _copy(entry: PublicFile, address: str, path: Path) -> None:
    content = _from_folder(own_path(address)) if _is_folder(address) else _from_bucket(address)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise Unobtainable(f"the mirror's {spelled(address)} is not {entry.name} (sha256 differs)")
    durable.unblock(path)
    durable.write_bytes(path, content)


def _from_folder(source: Path) -> bytes:
    if not source.is_file():
        raise Unobtainable(f"the mirror has no {spelled(source)}")
    try:
        return source.read_bytes()
    except OSError as error:
        raise Unobtainable(f"the mirror's {spelled(source)} cannot be read ({error.strerror})") from error


def _from_bucket(address: str) -> bytes:
    from nanogpt.sources.places import whole_file  # fsspec

    return whole_file(address)
