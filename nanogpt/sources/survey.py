"""Which texts could be had now, and from where, before anything is fetched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanogpt.sources.catalogue import CATALOGUE, PublicFile
from nanogpt.sources.download import ANSWER_SECONDS
from nanogpt.sources.hub_address import HubAddress
from nanogpt.sources.kinds import hub_address_of, kind_of
from nanogpt.sources.own import own_path
from nanogpt.sources.part import Unobtainable, say_nothing
from nanogpt.sources.places import Hub, places_of, whole_file, within
from nanogpt.spelling import redacted

Where = Literal["here", "mirror", "home", "nowhere"]


@dataclass(frozen=True)
class Availability:
    """Where a source can be had: all of it here, from a mirror, from its public home (then what is here already does
    not count), or nowhere but for the `bytes_here` of its text that were downloaded before. `reason`: why nowhere."""

    name: str
    where: Where
    bytes_here: int = 0
    reason: str | None = None


def available(source: str, mirrors: Sequence[str], folder: Path) -> Availability:
    """Asks the places for their lists of files, about ANSWER_SECONDS each at most, and fetches nothing. A person's own
    text is here."""
    address = hub_address_of(source)
    if address is not None:
        return _of_a_set(source, address, mirrors, folder)
    if kind_of(source) != "file":
        return Availability(source, "here")
    file = CATALOGUE[source].file
    assert file is not None
    return _of_a_file(file, mirrors, folder)


def _of_a_set(source: str, address: HubAddress, mirrors: Sequence[str], folder: Path) -> Availability:
    from nanogpt.sources.set_files import SetCopy  # pyarrow: 0.2 s

    known = CATALOGUE.get(source)
    copy = SetCopy(address, folder, say_nothing)
    here = copy.here(None, held_out=known is not None and known.split == "published")
    if here is not None and here.shortfall is None:
        return Availability(source, "here", here.bytes)
    reasons = []
    for place in places_of(address, mirrors):
        try:
            place.listing(address.revision)
        except Unobtainable as error:
            reasons.append(str(error))
            continue
        is_home = isinstance(place, Hub) and place.is_home
        return Availability(source, "home" if is_home else "mirror", here.bytes if here else 0)
    return Availability(source, "nowhere", here.bytes if here else 0, "; ".join(dict.fromkeys(reasons)))


def _of_a_file(file: PublicFile, mirrors: Sequence[str], folder: Path) -> Availability:
    path = folder / file.file
    if path.is_file() and path.stat().st_size == file.bytes:
        return Availability(file.name, "here", file.bytes)
    reasons = []
    for place in [*mirrors, *file.homes]:
        try:
            _ask(file.at(place))
        except Unobtainable as error:
            reasons.append(str(error))
            continue
        return Availability(file.name, "home" if place in file.homes else "mirror")
    return Availability(file.name, "nowhere", 0, "; ".join(dict.fromkeys(reasons)))


def _ask(address: str) -> None:
    """Raise Unobtainable unless a file is there."""
    if address.startswith("s3://"):
        whole_file(address)
        return
    if not address.startswith(("http://", "https://")):
        if not os.path.isfile(own_path(address)):
            raise Unobtainable(f"the mirror has no {address}")
        return
    import requests  # 70 ms

    host = redacted(address).split("/")[2].removeprefix("***@")
    try:
        answer = within(ANSWER_SECONDS, lambda: requests.head(address, timeout=ANSWER_SECONDS, allow_redirects=True))
    except (requests.RequestException, ValueError) as error:
        raise Unobtainable(f"no connection to {host}") from error
    except Unobtainable as error:
        raise Unobtainable(f"{host}: {error}") from error
    if answer.status_code >= 400:
        raise Unobtainable(f"{host} answers {answer.status_code} {answer.reason}")
