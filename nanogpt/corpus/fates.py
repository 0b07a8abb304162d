"""What became of each document: kept, or the reason why it was left out. Every document is counted under one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from nanogpt.results.text import DocumentFates, FateCount, FindingCount
from nanogpt.sources.account import Account
from nanogpt.units import counted

EXAMPLES = 3  # of each fate and kind of finding


class Fate(StrEnum):
    """The values of a quality rule are its names in the configuration (nanogpt.config.QUALITY_RULES)."""

    KEPT = "kept"
    # while it was read
    UNREADABLE = "unreadable"
    NOT_TEXT = "not_text"
    NOT_A_TEXT_FORMAT = "not_a_text_format"
    CHANGED_WHILE_READ = "changed_while_read"
    # by the filters, in this order
    EMPTY = "empty"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    LANGUAGE = "language"
    FEW_WORDS = "few_words"
    MANY_WORDS = "many_words"
    WORD_LENGTH = "word_length"
    SYMBOLS = "symbols"
    BULLETS = "bullets"
    ELLIPSES = "ellipses"
    NO_LETTERS = "no_letters"
    FEW_STOP_WORDS = "few_stop_words"
    REPEATED_LINES = "repeated_lines"
    REPEATED_PARAGRAPHS = "repeated_paragraphs"
    REPEATED_PHRASES = "repeated_phrases"
    PROFANITY = "profanity"
    PRIVATE_DATA = "private_data"
    # among all documents
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    NOT_NEEDED = "not_needed"  # held out by its publisher, beyond what evaluation reads


MEANINGS = {  # of a document that is left out; data.*: the setting that does it
    Fate.UNREADABLE: "could not be read",
    Fate.NOT_TEXT: "no text",
    Fate.NOT_A_TEXT_FORMAT: "in no format of texts",
    Fate.CHANGED_WHILE_READ: "changed while it was read",
    Fate.EMPTY: "nothing or white space alone",
    Fate.TOO_SHORT: "below data.min_characters",
    Fate.TOO_LONG: "above data.max_characters, or too long to be held at once",
    Fate.LANGUAGE: "in another language than data.language",
    Fate.FEW_WORDS: "fewer than 50 words",
    Fate.MANY_WORDS: "more than 100,000 words",
    Fate.WORD_LENGTH: "words of unusual length",
    Fate.SYMBOLS: "many # or ellipses",
    Fate.BULLETS: "nearly all lines are bullets",
    Fate.ELLIPSES: "many lines end in an ellipsis",
    Fate.NO_LETTERS: "many words without letters",
    Fate.FEW_STOP_WORDS: "hardly any of the commonest English words",
    Fate.REPEATED_LINES: "repeated lines",
    Fate.REPEATED_PARAGRAPHS: "repeated paragraphs",
    Fate.REPEATED_PHRASES: "repeated phrases",
    Fate.PROFANITY: "swear words above data.profanity_limit",
    Fate.PRIVATE_DATA: "private data",
    Fate.DUPLICATE: "the same as another",
    Fate.NEAR_DUPLICATE: "nearly the same as another",
    Fate.NOT_NEEDED: "held out by its publisher, beyond what evaluation reads",
}


@dataclass(frozen=True)
class Finding:
    """Something of `kind` in a document's text [first, end); `masked` shows its shape, not what it says."""

    kind: str
    first: int
    end: int
    masked: str


class Fates:
    """Counts fates and findings. Those of pieces, merged in the pieces' order, are those of the whole source."""

    def __init__(self) -> None:
        self._documents = Counter[str]()
        self._characters = Counter[str]()
        self._names = defaultdict[str, list[str]](list)
        self._finding_documents = Counter[str]()
        self._places = Counter[str]()
        self._masked = defaultdict[str, list[str]](list)
        self.crossings = 0  # DocumentFates says what they are

    def count(self, fate: str, name: str, characters: int) -> None:
        """One more document: `name` as nanogpt.sources.document has it. Kept ones are no examples."""
        self._add(fate, 1, characters, [] if fate == Fate.KEPT else [name])

    def find(self, findings: Iterable[Finding]) -> None:
        """What was found in one more document."""
        by_kind = defaultdict[str, list[str]](list)
        for finding in findings:
            by_kind[finding.kind].append(finding.masked)
        for kind, masked in by_kind.items():
            self._add_finding(kind, 1, len(masked), masked)

    def take_from_kept(self, fate: Fate, name: str, characters: int) -> None:
        """A document that was counted as kept is left out after all."""
        self._add(Fate.KEPT, -1, -characters, [])
        self.count(fate, name, characters)

    def merge(self, other: DocumentFates) -> None:
        """Add what `other` counts; examples stay the first ones."""
        for fate, more in other.fates.items():
            self._add(fate, more.documents, more.characters, more.examples)
        for kind, found in other.findings.items():
            self._add_finding(kind, found.documents, found.places, found.examples)
        self.crossings += other.crossings

    def merge_unread(self, account: Account) -> None:
        """Add what became no document while it was read."""
        for reason, count in account.left_out.items():
            self._add(reason, count, 0, account.examples.get(reason, []))

    def record(self) -> DocumentFates:
        """What was counted, the commonest fate first."""
        return DocumentFates(
            {
                fate: FateCount(documents, self._characters[fate], list(self._names[fate]))
                for fate, documents in sorted(self._documents.items(), key=lambda item: (-item[1], item[0]))
                if documents
            },
            {
                kind: FindingCount(documents, self._places[kind], list(self._masked[kind]))
                for kind, documents in sorted(self._finding_documents.items())
            },
            self.crossings,
        )

    def _add(self, fate: str, documents: int, characters: int, examples: list[str]) -> None:
        self._documents[str(fate)] += documents
        self._characters[str(fate)] += characters
        _extend(self._names[str(fate)], examples)

    def _add_finding(self, kind: str, documents: int, places: int, examples: list[str]) -> None:
        self._finding_documents[kind] += documents
        self._places[kind] += places
        _extend(self._masked[kind], examples)


def remarks(record: DocumentFates) -> list[str]:
    """What a person should know of `record`, a line each."""
    lines = []
    for fate, became in record.fates.items():
        if fate != Fate.KEPT:
            examples = f" ({', '.join(became.examples)}{', ...' if became.documents > len(became.examples) else ''})"
            lines.append(f"{counted(became.documents, 'document')} left out: {MEANINGS[Fate(fate)]}{examples}")
    if record.findings:
        found = ", ".join(_finding(kind, count) for kind, count in record.findings.items())
        lines.append(f"private data found: {found}; data.private_data (count, redact or drop) says what becomes of it")
    return lines


def _finding(kind: str, found: FindingCount) -> str:
    example = f" (such as {found.examples[0]})" if found.examples else ""
    return f"{kind.replace('_', ' ')} {counted(found.places, 'time')}{example}"


def _extend(examples: list[str], more: list[str]) -> None:
    examples += more[: max(0, EXAMPLES - len(examples))]
