"""The texts that a plan may choose from, as records: by what the catalogue says of them, and what was found of them."""

from __future__ import annotations

from flows.ledger.facts import SurveyedText
from nanogpt.config import DataConfig
from nanogpt.sources import catalogue, fetching
from nanogpt.sources.catalogue import CATALOGUE, EMBEDDED

AUTO = "auto"
EMBEDDED_BYTES = 10_000_000


def of_catalogue() -> list[SurveyedText]:
    """As if all of them could be had."""
    named = [
        SurveyedText(name, source.bytes, "not asked yet", alphabet_size=source.alphabet or 0, licence=source.licence)
        for name, source in CATALOGUE.items()
    ]
    return [*named, embedded()]


def embedded() -> SurveyedText:
    return SurveyedText(EMBEDDED, EMBEDDED_BYTES, "made here", licence=catalogue.licence(EMBEDDED))


def candidates(data: DataConfig) -> list[SurveyedText]:
    """What `data.source` leaves to choose from. Raises UserError."""
    known = of_catalogue()
    if data.source == AUTO:
        return known
    found = [text for text in known if text.name == data.source]
    return found or [SurveyedText(data.source, fetching.expected_bytes(data.source), "here")]
