"""Gopher's rules of quality (Rae et al. 2021, arXiv:2112.11446, appendix A.1 and table A1).

nanogpt.config.QUALITY_RULES names them. Words are what white space separates. The rules were made for English web
pages: short documents, source code, lists and other languages break them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLETS = ("•", "‣", "●", "▪", "*", "-")
ELLIPSES = ("...", "…")
_LARGEST_SHARE_OF_TOP_PHRASE = {2: 0.20, 3: 0.18, 4: 0.16}  # by words in the phrase, of all characters
_LARGEST_SHARE_OF_REPEATED_PHRASES = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
_PARAGRAPHS = re.compile(r"\n{2,}")


class Layout:
    """A text with what several rules look at, made when one asks for it."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        return self.text.split()

    @cached_property
    def named(self) -> list[str]:
        """The words that have a letter or a digit."""
        return [word for word in self.words if any(map(str.isalnum, word))]

    @cached_property
    def lines(self) -> list[str]:
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [part for part in map(str.strip, _PARAGRAPHS.split(self.text)) if part]


def first_broken(text: str, rules: Collection[str]) -> str | None:
    """The first of `rules`, in the order of RULES, that `text` breaks."""
    layout = Layout(text)
    return next((rule for rule, is_broken in RULES.items() if rule in rules and is_broken(layout)), None)


def _word_length(layout: Layout) -> bool:
    mean = sum(map(len, layout.named)) / max(len(layout.named), 1)
    return not 3 <= mean <= 10


def _symbols(layout: Layout) -> bool:
    ellipses = sum(map(layout.text.count, ELLIPSES))
    return max(layout.text.count("#"), ellipses) > 0.1 * len(layout.words)


def _bullets(layout: Layout) -> bool:
    return sum(line.startswith(BULLETS) for line in layout.lines) > 0.9 * len(layout.lines)


def _ellipses(layout: Layout) -> bool:
    return sum(line.endswith(ELLIPSES) for line in layout.lines) > 0.3 * len(layout.lines)


def _no_letters(layout: Layout) -> bool:
    with_letters = sum(any(map(str.isalpha, word)) for word in layout.words)
    return with_letters < 0.8 * len(layout.words)


def _few_stop_words(layout: Layout) -> bool:
    return len(STOP_WORDS.intersection(map(str.lower, layout.words))) < 2


def _is_repetitive(parts: Sequence[str]) -> bool:
    """Whether over 30 % of `parts`, or 20 % of their characters, are in parts that came before."""
    seen = set[str]()
    repeated = characters = 0
    for part in parts:
        if part in seen:
            repeated += 1
            characters += len(part)
        seen.add(part)
    return repeated > 0.3 * len(parts) or characters > 0.2 * sum(map(len, parts))


def _repeated_phrases(layout: Layout) -> bool:
    whole = len(layout.text)
    return any(
        _characters_of_top_phrase(layout.words, length) > share * whole
        for length, share in _LARGEST_SHARE_OF_TOP_PHRASE.items()
    ) or (
        _has_repeated_phrases(layout.words, min(_LARGEST_SHARE_OF_REPEATED_PHRASES))
        and any(
            _characters_of_repeated_phrases(layout.words, length) > share * whole
            for length, share in _LARGEST_SHARE_OF_REPEATED_PHRASES.items()
        )
    )


def _phrases(words: list[str], length: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[first:] for first in range(length)), strict=False)


def _has_repeated_phrases(words: list[str], length: int) -> bool:
    """Without one of this length, there is none that is longer."""
    return len(set(_phrases(words, length))) < len(words) - length + 1


def _characters_of_top_phrase(words: list[str], length: int) -> int:
    """All occurrences of the phrase of `length` words that occurs most often, if it does so more than once."""
    phrases = Counter(_phrases(words, length))
    if not phrases:
        return 0
    phrase, times = phrases.most_common(1)[0]
    return times * (sum(map(len, phrase)) + length - 1) if times > 1 else 0


def _characters_of_repeated_phrases(words: list[str], length: int) -> int:
    """Those of phrases of `length` words that came before; phrases do not overlap, so that each word counts once."""
    seen = set[tuple[str, ...]]()
    characters = first = 0
    while first + length <= len(words):
        phrase = tuple(words[first : first + length])
        if phrase in seen:
            characters += sum(map(len, phrase))
            first += length
        else:
            seen.add(phrase)
            first += 1
    return characters


RULES: dict[str, Callable[[Layout], bool]] = {
    "few_words": lambda layout: len(layout.named) < 50,
    "many_words": lambda layout: len(layout.named) > 100_000,
    "word_length": _word_length,
    "symbols": _symbols,
    "bullets": _bullets,
    "ellipses": _ellipses,
    "no_letters": _no_letters,
    "few_stop_words": _few_stop_words,
    "repeated_lines": lambda layout: _is_repetitive(layout.lines),
    "repeated_paragraphs": lambda layout: _is_repetitive(layout.paragraphs),
    "repeated_phrases": _repeated_phrases,
}
