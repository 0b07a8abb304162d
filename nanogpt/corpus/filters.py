"""What is done to each document by itself: its normal form, then everything that may leave it out.

A pure function of the document and the configuration, so the order and number of workers change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from nanogpt.config import DataConfig, Language
from nanogpt.corpus import language, private_data, profanity, quality_rules
from nanogpt.corpus.fates import Fate, Finding
from nanogpt.sources.cleaning import clean
from nanogpt.sources.document import Document


@dataclass(frozen=True)
class Filtered:
    """What became of a document. `text` is what is learned from where it was kept, and as far as it came otherwise."""

    fate: Fate
    text: str
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Filters:
    """The filters of one configuration; crosses processes if `normalise` does."""

    normalise: Callable[[str], str]
    shortest: int
    longest: int | None
    language: Language
    quality: frozenset[str]
    profanity: Literal["ignore", "count", "drop"]
    profanity_limit: float
    private_data: Literal["ignore", "count", "redact", "drop"]

    @classmethod
    def from_config(cls, config: DataConfig, normalise: Callable[[str], str] | None = None) -> Filters:
        """`normalise`: that of a tokenizer which exists already, in place of `config.unicode`."""
        return cls(
            normalise=normalise or partial(clean, form="NFKC" if config.unicode == "nfkc" else "NFC"),
            shortest=config.min_characters,
            longest=config.max_characters,
            language=config.language,
            quality=config.quality_rules,
            profanity=config.profanity,
            profanity_limit=config.profanity_limit,
            private_data=config.private_data,
        )

    def apply(self, document: Document) -> Filtered:
        """The document in its normal form, and the first reason to leave it out."""
        text = self.normalise(document.text)
        if reason := self._reason_against(text):
            return Filtered(reason, text)
        swear_words = [] if self.profanity == "ignore" else profanity.find(text)
        if self.profanity == "drop" and profanity.share(swear_words, text) > self.profanity_limit:
            return Filtered(Fate.PROFANITY, text, swear_words)
        private = [] if self.private_data == "ignore" else private_data.find(text)
        if private and self.private_data == "drop":
            return Filtered(Fate.PRIVATE_DATA, text, [*swear_words, *private])
        if private and self.private_data == "redact":
            text = private_data.redact(text, private)
        return Filtered(Fate.KEPT, text, [*swear_words, *private])

    def _reason_against(self, text: str) -> Fate | None:
        if not text or text.isspace():
            return Fate.EMPTY
        if len(text) < self.shortest:
            return Fate.TOO_SHORT
        if self.longest is not None and len(text) > self.longest:
            return Fate.TOO_LONG
        if self.language != "any" and not language.is_in(self.language, text):
            return Fate.LANGUAGE
        if self.quality and (rule := quality_rules.first_broken(text, self.quality)):
            return Fate(rule)
        return None
