"""The texts that a plan may choose from, as records: by what the catalogue says of them, and what was found of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from flows.ledger.facts import PlannedText, SurveyedText
from nanogpt.config import SMALL_TEXT, DataConfig
from nanogpt.faults import UserError
from nanogpt.sources import catalogue, own
from nanogpt.sources.catalogue import CATALOGUE, EMBEDDED
from nanogpt.sources.embedded import FIRST_BYTES
from nanogpt.units import byte_size

AUTO = "auto"
EMBEDDED_BYTES = 11_000_000  # with the packages that this project needs, and no manual
ALPHABET_OF_FIRST = 110  # different characters of what every Python has, about
UNKNOWN_BYTES = 2**40  # of a hub's data set, before it is asked for: more than any plan reads
ALPHABET_OF_OWN = 100  # different characters of a person's own small text, before it is read
LEAST_DOWNLOADED = 1_000_000  # bytes of a text that are worth learning from where no place has the rest
WHERE = {"here": "here", "mirror": "a mirror", "home": "its public home"}


def are_by_plan(data: DataConfig) -> bool:
    """Whether the plan says which text, or how much of it: fetched before, it would not be known, or too large."""
    if data.source == AUTO or data.mixture:
        return True
    if data.source == EMBEDDED or (data.source in CATALOGUE and CATALOGUE[data.source].file):
        return False
    try:
        return _is_of_a_hub(data.source) or not own.is_small(data.source)
    except (OSError, UserError):  # what is wrong with it is said where it is checked
        return False


def is_open(data: DataConfig) -> bool:
    """Whether the plan chooses among texts; a person may have named one, or a mixture."""
    return data.source == AUTO and not data.mixture


def expected_bytes(data: DataConfig) -> int:
    """Bytes of the text at least, before it is known which text and how much of it. Raises UserError."""
    sources = ["tiny_shakespeare"] if is_open(data) else data.sources
    return min(SMALL_TEXT, sum(map(_bytes_of, sources)))


def _bytes_of(source: str) -> int:
    if source in CATALOGUE:
        return CATALOGUE[source].bytes
    from nanogpt.sources import fetching  # 0.1 s, which a catalogue's text does not need

    return fetching.expected_bytes(source)


def survey(data: DataConfig, names: Sequence[str], folder: Path, gone: Mapping[str, str]) -> list[SurveyedText]:
    """`names` of the catalogue, or the text that a person named, as they can be had now: asked for, and not fetched.

    `folder` keeps downloads; `gone`: what could not be had after all, and why. Raises UserError.
    """
    from nanogpt.sources.survey import available  # 0.2 s, as above

    def as_found(text: SurveyedText) -> SurveyedText:
        if text.name in gone:
            return replace(text, where="nowhere", obstacle=gone[text.name])
        if data.mixture:
            places = [available(source, data.mirrors, folder) for source in data.sources]
            nowhere = [f"{place.name}: {place.reason}" for place in places if place.where == "nowhere"]
            return replace(text, where="as each is", obstacle="; ".join(nowhere))
        found = available(text.name, data.mirrors, folder)
        if found.where != "nowhere":
            return replace(text, where=WHERE[found.where], bytes=found.least_bytes or text.bytes)
        if found.bytes_here >= LEAST_DOWNLOADED:
            return replace(text, where="downloaded before", bytes=found.bytes_here)
        return replace(text, where="nowhere", obstacle=found.reason or "no place has it")

    texts = [text for text in candidates(data) if not is_open(data) or text.name in names]
    with ThreadPoolExecutor(len(texts), thread_name_prefix="survey") as pool:
        return list(pool.map(as_found, texts))


def candidates(data: DataConfig) -> list[SurveyedText]:
    """What `data.source` leaves to choose from, as if all of it could be had. Raises UserError."""
    named = [
        SurveyedText(
            name,
            source.bytes,
            "not asked yet",
            in_pieces=source.hub is not None,
            alphabet_size=source.alphabet or 0,
            licence=source.licence,
        )
        for name, source in CATALOGUE.items()
    ]
    known = [*named, _embedded()]
    if data.mixture:
        size = sum(map(_bytes_of, data.sources))
        return [SurveyedText(", ".join(map(own.name_of, data.sources)), size, "as each is", in_pieces=True)]
    if data.source == AUTO:
        return known
    if found := [text for text in known if text.name == data.source]:
        return found
    if _is_of_a_hub(data.source):
        return [SurveyedText(data.source, UNKNOWN_BYTES, "not asked yet", in_pieces=True)]
    size = _bytes_of(data.source)
    is_large = size > SMALL_TEXT  # a small one is read before a run plans; most have few different characters
    alphabet = 0 if is_large else ALPHABET_OF_OWN
    return [SurveyedText(data.source, size, "here", in_pieces=is_large, alphabet_size=alphabet)]


def described(text: PlannedText) -> str:
    """Which text, what it is, how much of it, and why, in one sentence."""
    what = f" ({known})" if (known := catalogue.description(text.name)) else ""
    whole = text.wanted_bytes >= text.bytes or text.bytes == UNKNOWN_BYTES
    much = byte_size(text.wanted_bytes) + ("" if whole else f" of its {byte_size(text.bytes)}")
    return f"text: {text.name}{what}, {much}: {text.why}"


def _embedded() -> SurveyedText:
    return SurveyedText(
        EMBEDDED,
        EMBEDDED_BYTES,
        "made here",
        in_pieces=True,
        first_bytes=FIRST_BYTES,
        alphabet_size=ALPHABET_OF_FIRST,
        licence=catalogue.licence(EMBEDDED),
    )


def _is_of_a_hub(source: str) -> bool:
    from nanogpt.sources.kinds import kind_of  # 0.05 s, as above

    return kind_of(source) == "hub"
