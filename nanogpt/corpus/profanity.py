"""Swear words and slurs in English: whole words of a short list that mean little else.

Words with a harmless second meaning (cock, bitch, ass, hell, damn, whore, chink) are not on it: Shakespeare and
breeders of dogs use them. A list knows nothing of tone, of quotation or of other languages.
"""

from __future__ import annotations

import re

from nanogpt.corpus.fates import Finding
from nanogpt.corpus.private_data import masked

KIND = "profanity"
_ENDINGS = {  # by the stem that each word holds, and that is searched for first
    "fuck": "s ed er ers in ing ings face head heads wit wits up ups off",
    "shit": "s ty tier ted ter ters ting head heads hole holes show shows load loads face faces",
    "cunt": "s",
    "twat": "s",
    "wank": "er ers ing",
    "asshole": "s",
    "arsehole": "s",
    "dumbass": "es",
    "jackass": "es",
    "dickhead": "s",
    "cocksuck": "er ers ing",
    "slut": "s ty",
    "goddamn": "ed",
    "douchebag": "s",
    "blowjob": "s",
    "handjob": "s",
    "gangbang": "s ed ing",
    "jizz": "",
    "milf": "s",
    "porno": "s",
    "pussies": "",
    "nigg": "er ers a as az",
    "faggot": "s",
    "kike": "s",
    "gook": "s",
    "wetback": "s",
    "raghead": "s",
    "towelhead": "s",
}
_BEFORE_STEMS = {"fuck": "mother cluster mind un", "shit": "bull horse chicken bat dip ape"}
_NO_WORDS = {"cocksuck", "nigg"}  # stems alone
_LETTERS = re.compile(r"[^\W\d_]+")


def _words() -> frozenset[str]:
    words = set()
    for stem, endings in _ENDINGS.items():
        whole = {stem + ending for ending in ["", *endings.split()]} - _NO_WORDS
        words |= whole | {before + word for before in _BEFORE_STEMS.get(stem, "").split() for word in whole}
    return frozenset(words)


WORDS = _words()


def find(text: str) -> list[Finding]:
    """Every swear word in `text`, masked but for its first letters."""
    lower = text.lower()
    if not any(stem in lower for stem in _ENDINGS):
        return []
    return [
        Finding(KIND, word.start(), word.end(), masked(word[0]))
        for word in _LETTERS.finditer(text)
        if word[0].lower() in WORDS
    ]


def share(findings: list[Finding], text: str) -> float:
    """Of the words of `text`."""
    return len(findings) / max(len(_LETTERS.findall(text)), 1) if findings else 0.0
