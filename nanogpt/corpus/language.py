"""Which language a text is in, by its commonest words: coarse, and without a model to fetch."""

from __future__ import annotations

import re

from nanogpt.config import Language

# Frequent function words that the other languages here have not, or have seldom.
_FUNCTION_WORDS: dict[Language, str] = {
    "de": "der die das und ist nicht ein eine zu mit den dem auf für von sich auch wird sind als bei",
    "en": "the of and to is that it was for with as be this are you not have from or by which",
    "es": "el los las y que es una por con para del como más pero sus este ser también lo al su",
    "fr": "le les et est une dans que qui pour pas sur au avec ce il elle sont des du nous vous",
    "it": "il di che è un per con non sono della gli nel alla anche più come del dei le una si",
    "nl": "de het een van en is dat op te met voor niet zijn aan ook er maar bij door naar wordt",
    "pt": "o os uma que não do da em para com por mais dos das ao pelo também são foi seu ou",
}
FUNCTION_WORDS = {name: frozenset(words.split()) for name, words in _FUNCTION_WORDS.items()}
LEAST_SHARE = 0.08  # of the words: below, it is no running text in any of these languages
_WORD = re.compile(r"[^\W\d_]+")
HEAD = 20_000  # characters that are looked at


def is_in(language: Language, text: str) -> bool:
    """Whether more of the first words of `text` are function words of `language` than of any other, and enough are."""
    words = _WORD.findall(text[:HEAD].lower())
    counts = {name: sum(map(common.__contains__, words)) for name, common in FUNCTION_WORDS.items()}
    return counts[language] >= max(max(counts.values()), LEAST_SHARE * len(words), 1)
