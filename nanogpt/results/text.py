"""A text, what became of its documents, and its tokens (nanogpt.corpus, nanogpt.data)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TextSplit:
    characters: int
    bytes: int
    first_character: int


@dataclass(frozen=True)
class Reading:
    """Documents whose encoding was detected, or in which bytes were replaced."""

    encoding: str  # Python's name
    documents: int
    example: str  # the name of the first
    confidence: float | None  # the lowest; None where nothing was detected
    replaced: int  # places with bytes that were no character, each U+FFFD now


@dataclass(frozen=True)
class FateCount:
    """Documents of one fate. `examples`: where the first of them lie."""

    documents: int = 0
    characters: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FindingCount:
    """What was looked for in documents, such as e-mail addresses. `examples`: the first, unreadable on purpose."""

    documents: int = 0
    places: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DocumentFates:
    """What became of every document (nanogpt.corpus.fates), and what was found in those that passed the filters.

    fates: by nanogpt.corpus.fates.Fate; findings: by kind. crossings: near duplicates that their own digests would have
    put on the other side of the wall between training and held-out text.
    """

    fates: dict[str, FateCount] = field(default_factory=dict)
    findings: dict[str, FindingCount] = field(default_factory=dict)
    crossings: int = 0


@dataclass(frozen=True)
class TextStatistics:
    """What the cleaned text is. `most_frequent` are the twenty commonest characters with their counts."""

    documents: int
    duplicates_removed: int
    encodings: dict[str, int]
    characters: int
    bytes: int
    lines: int
    words: int
    distinct_words: int | None  # None: of a large text, where they are not counted
    alphabet: str
    most_frequent: list[tuple[str, int]]
    sha256: str
    splits: dict[str, TextSplit]
    readings: list[Reading] = field(default_factory=list, kw_only=True)
    fates: DocumentFates = field(default_factory=DocumentFates, kw_only=True)


@dataclass(frozen=True)
class TokenSplit:
    tokens: int
    bytes: int
    characters: int


@dataclass(frozen=True)
class TokenStatistics:
    """What the tokens of all splits are; `most_frequent` are the twenty commonest with their counts."""

    tokenizer: str
    vocab_size: int
    vocabulary_used: int
    tokens: int
    tokens_per_split: dict[str, int]
    bytes_per_token: float
    most_frequent: list[tuple[str, int]]
    longest_token: str
    unknown: int = field(default=0, kw_only=True)  # characters outside the vocabulary


@dataclass(frozen=True)
class TokenFrequencies:
    """How often the tokens of a data folder occur, `tokens` of them counted.

    ranks: (1 for the commonest token, how often it occurs), evenly along the logarithm of the rank. lengths: (bytes of
    a token, how many of the counted have that many); the end of a text has none. coverage: (share of the counted
    tokens, how many of the commonest make it up).
    """

    tokenizer: str
    vocab_size: int
    vocabulary_used: int
    tokens: int
    ranks: list[tuple[int, int]]
    lengths: list[tuple[int, int]]
    coverage: list[tuple[float, int]]
