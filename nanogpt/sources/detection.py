"""Which encoding a text without a mark is in, when it is not Unicode.

charset-normalizer finds the encodings in which the text is no jumble. In many languages several are left, and its own
order then takes Windows-1250 for Portuguese and Swedish; so of those the one wins whose letters belong to one language.
"""

from __future__ import annotations

import io
import itertools
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

SAMPLE = 1 << 16  # bytes of lines beyond ASCII that are looked at
RARE = 0.97  # factor on the plausibility of the code pages of DOS and of old Macs

_CANDIDATES = (  # the commoner first: the first of those that give the same text is named
    "cp1252", "cp1250", "cp1251", "cp932", "gb18030", "cp949", "big5", "euc_jp", "koi8_r", "koi8_u", "cp1253", "cp1254",
    "cp1255", "cp1256", "cp1257", "iso8859_2", "iso8859_5", "iso8859_7", "cp866", "mac_roman", "mac_cyrillic", "cp850",
    "cp852", "cp437",
)  # fmt: skip
_RARE = _CANDIDATES[_CANDIDATES.index("cp866") :]  # of DOS and of old Macs
# The letters beyond ASCII of the languages that share the Latin script, without the rarest: `ã` and `ê` are Portuguese,
# `ă` and `ę` are not both of one language. Without this table Portuguese and Swedish would be read as Windows-1250.
_LETTERS = (
    "äöüß àâæçéèêëîïôœùûüÿ áéíñóúü áâãàçéêíóôõúü àèéìíîòóùú åäöéà æøåéèêóòôü äëéèïíöóüúê áðéíóúýþæö ąćęłńóśźż "
    "áčďéěíňóřšťúůýž áäčďéíľňóôšťúýž áéíóöőúüű ăâîşţșț čćđšž çğıöşüâîû äöõüšž āčēģīķļņšūž ąčęėįšųūž àèéíïòóúüç ëç"
)
_ALPHABETS = tuple(frozenset(letters + letters.upper()) for letters in _LETTERS.split())
# What each of Chinese, Japanese and Korean uses: nearly all in texts, a part of what a wrong reading gives.
_ASIAN = ("gb2312", "big5", "shift_jis", "euc_kr")
_HALF_WIDTH = frozenset(map(chr, range(0xFF61, 0xFFA0)))  # katakana, which other texts read as Shift-JIS are full of
_SYMBOLS = frozenset("„“”‚‘’«»‹›–—…•·°§†‡©®™№¡¿£€¥¢ªº±×÷½¼¾²³¹µ´\xa0\xad")
_SYMBOL_WITHIN_A_WORD = re.compile(r"(?<=[^\W\d_])[„“”‚«»‹›•§¡¿£€¥¢©®](?=[^\W\d_])|[†‡°ªº±×÷½¼¾²³¹µ™](?=[^\W\d_])")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_ASCII = bytes(range(128))


@dataclass(frozen=True)
class Guess:
    """A text, the encoding in which it is that, and how likely it is.

    `plausibility` is the share of the text that is no jumble times the share of its characters beyond ASCII that belong
    to one language; `coherence` is charset-normalizer's: how far the frequencies of letters are those of a language.
    """

    text: str
    encoding: str
    plausibility: float
    coherence: float

    def is_rival_of(self, best: Guess) -> bool:
        """Whether this is as plausible as `best`, and differs from it in more than a few characters."""
        if round(self.plausibility, 2) < round(best.plausibility, 2) or self.coherence < best.coherence - 0.02:
            return False
        if len(self.text) != len(best.text):
            return True
        pairs = [pair for pair in zip(self.text, best.text, strict=True) if max(pair) > "\x7f"]
        return sum(one != other for one, other in pairs) > 0.05 * len(pairs)


def guesses(data: bytes) -> list[Guess]:
    """What `data` may be, each text once, the most plausible first; empty when it is none of the encodings."""
    return max(map(_guesses_of, _samples(data)), key=lambda found: found[0].plausibility if found else 0)


def _guesses_of(sample: bytes) -> list[Guess]:
    import charset_normalizer  # 10 ms of every start, and few texts need it

    texts: dict[str, Guess] = {}
    for match in charset_normalizer.from_bytes(sample, cp_isolation=list(_CANDIDATES)):
        text = str(match)
        name = min(match.could_be_from_charset, key=_CANDIDATES.index)
        plausibility = (1 - match.chaos) * plausible_share(text) * (RARE if name in _RARE else 1)
        texts.setdefault(text, Guess(text, name, plausibility, match.coherence))
    return sorted(texts.values(), key=_rank)


def _rank(guess: Guess) -> tuple[float, float, int]:
    return -round(guess.plausibility, 2), -round(guess.coherence, 2), _CANDIDATES.index(guess.encoding)


def _samples(data: bytes) -> list[bytes]:
    """The lines with more than ASCII in them, as far as they are needed; of one long line, two beginnings, since one
    may end inside a character."""
    sample = bytearray()
    for line in io.BytesIO(data.replace(b"\r", b"\n")):
        if not line.isascii() and (line.endswith(b"\n") or not sample):  # a last line may be cut
            sample += line.lstrip(_ASCII) if len(line) > SAMPLE else line
        if len(sample) > SAMPLE:
            break
    sample = sample[:SAMPLE]
    end = sample.rfind(b"\n") + 1
    return [bytes(sample[:end])] if end else [bytes(sample), bytes(sample[:-1])]


def plausible_share(text: str) -> float:
    """Of the characters of `text` beyond ASCII, how many belong to texts of one language, where they stand."""
    counts = Counter(_BEYOND_ASCII.findall(text))
    latin = {character for character in counts if "LATIN" in unicodedata.name(character, "") and character not in "ªº"}
    asian = {character for character in counts if character >= "\u2e80"} - _HALF_WIDTH
    plausible = max(sum(counts[letter] for letter in latin & alphabet) for alphabet in _ALPHABETS)
    plausible += max(sum(counts[one] for one in asian if _is_in(one, charset)) for charset in _ASIAN)
    plausible += sum(
        count for character, count in counts.items()
        if character not in latin and (character in _SYMBOLS or _is_of_another_alphabet(character))
    )  # fmt: skip
    plausible -= len(_SYMBOL_WITHIN_A_WORD.findall(text))
    plausible -= sum(one.islower() and other > "\x7f" and other.isupper() for one, other in itertools.pairwise(text))
    return max(0, plausible) / max(1, counts.total())


def _is_of_another_alphabet(character: str) -> bool:
    """Greek, Cyrillic, Hebrew, Arabic and so on, with their punctuation."""
    return "\u0370" <= character < "\u2000" and unicodedata.category(character)[0] in "LMNP"


def _is_in(character: str, charset: str) -> bool:
    try:
        return len(character.encode(charset)) <= 2  # EUC-KR spells rare syllables in eight bytes
    except UnicodeEncodeError:
        return False
