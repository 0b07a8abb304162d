"""Bytes of a document -> text, in whatever encoding people have; what cannot be read as text is refused.

A byte-order mark decides, then UTF-8 if nearly all of it is valid, then UTF-16 and UTF-32 without a mark. What else it
may be is detected: charset-normalizer finds the encodings in which the text is no jumble, and of those the one wins
whose letters belong to one language. `confidence` is the product of both: the share of the text that is no jumble, and
the share of its characters beyond ASCII that are plausible; half of that when another reading is as plausible.
"""

from __future__ import annotations

import codecs
import io
import itertools
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import charset_normalizer

from nanogpt.faults import UserError
from nanogpt.spelling import spelled

REPLACEMENT = "\ufffd"
LEAST_CONFIDENCE = 0.8
MOST_REPLACED = 0.01  # of the characters, in an encoding that a mark, a person or detection named
# UTF-8 as long as this share of the sequences beyond ASCII is valid: a text in another encoding has hardly any.
LEAST_VALID = 0.8
HEAD = 1 << 20  # bytes that are looked at for what the whole is
SAMPLE = 1 << 16  # bytes of lines beyond ASCII that are given to detection
RARE = 0.97  # the score of a reading as DOS or old Macs wrote is multiplied by this
HARMLESS = 0.001  # of the bytes: so few doubtful ones are no reason to refuse a text

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
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
_SURROGATE = re.compile("[\ud800-\udfff]")
_LAYOUT = "\t\n\v\f\r\x1b"


@dataclass(frozen=True)
class Decoded:
    """A text and Python's name of its encoding.

    `confidence` is None where the encoding was not detected; `replaced` counts the places with bytes that are no
    character, each U+FFFD now.
    """

    text: str
    encoding: str
    confidence: float | None = None
    replaced: int = 0


def decode(data: bytes, path: Path, encoding: str = "auto") -> Decoded:
    """`data`, the bytes of `path`, as text. `encoding` is tried where neither a mark nor valid UTF-8 says what it is.

    Raises UserError when it is not text, or in an encoding that cannot be distinguished from others.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return _read(data, name, path)
    if encoding != "auto":
        return _in_chosen(data, encoding, path)
    if is_binary(data[:HEAD]):
        return _without_mark(data, path)
    return _utf8(data) or _detected(data, path)


def is_binary(head: bytes) -> bool:
    """Whether the first bytes of a file cannot be text in a code of single bytes: NUL, or many control characters."""
    controls = sum(head.count(code) for code in (*range(1, 9), *range(14, 27), *range(28, 32)))
    return b"\0" in head or controls > len(head) // 1000


def _in_chosen(data: bytes, encoding: str, path: Path) -> Decoded:
    """In `encoding`, unless it is valid UTF-8 with more than ASCII in it: that happens in no other encoding."""
    if not data.isascii() and b"\0" not in data[:HEAD] and (utf8 := _utf8(data)) and not utf8.replaced:
        return utf8
    return _read(data, encoding, path)


def _read(data: bytes, encoding: str, path: Path, confidence: float | None = None) -> Decoded:
    """In `encoding`, with U+FFFD for what is no character. Raises UserError when that is too much."""
    name = encoding.removesuffix("-sig")
    try:
        return Decoded(_without_surrogates(data.decode(encoding)), name, confidence)
    except UnicodeError:
        pass
    try:
        text = _without_surrogates(data.decode(encoding, "replace"))
    except UnicodeError:  # some codecs replace nothing
        text = REPLACEMENT
    replaced = text.count(REPLACEMENT)
    if replaced > 1 + len(text) * MOST_REPLACED:
        raise UserError(
            f"data.source: {spelled(path)} is not text in {name}: {replaced:,} of its {len(text):,} characters cannot "
            "be read; --set data.encoding=NAME names another"
        )
    return Decoded(text, name, confidence, replaced)


def _utf8(data: bytes) -> Decoded | None:
    """In UTF-8, if at least LEAST_VALID of it beyond ASCII is valid; a last character that was cut does not count."""
    try:
        return Decoded(data.decode("utf-8"), "utf-8")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
    replaced = text.count(REPLACEMENT) - data.count(REPLACEMENT.encode())
    valid = len(text) - len(_ascii_of(data)) - replaced
    cut = text.endswith(REPLACEMENT) and not data.endswith(REPLACEMENT.encode())
    if valid < LEAST_VALID * (valid + replaced - cut):
        return None
    return Decoded(text, "utf-8", replaced=replaced)


def _without_mark(data: bytes, path: Path) -> Decoded:
    """In UTF-16 or UTF-32, by the one in which nearly all are characters of texts. Raises UserError when none is."""
    head = data[: HEAD - HEAD % 4]
    shares = {}
    for encoding in _WIDE:
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(head)
        except UnicodeDecodeError:
            continue
        counts = Counter(text)
        strange = sum(count for character, count in counts.items() if _is_strange(character))
        ascii_characters = sum(counts[character] for character in map(chr, range(128)))
        shares[encoding] = round(1 - strange / max(len(text), 1), 3), ascii_characters
    best = max(shares, key=shares.__getitem__, default="")
    if not best or shares[best][0] < 0.999:
        raise UserError(f"data.source: {spelled(path)} is not text (binary bytes)")
    return _read(data, best, path, shares[best][0])


def _is_strange(character: str) -> bool:
    """A control character, or one that Unicode has not assigned."""
    return unicodedata.category(character) in ("Cc", "Cn", "Co") and character not in _LAYOUT


@dataclass(frozen=True)
class _Reading:
    text: str
    encoding: str
    score: float  # the share of the text that is no jumble x the plausible share of its characters beyond ASCII
    coherence: float  # charset-normalizer's: how alike its letters are in frequency to those of a language


def _detected(data: bytes, path: Path) -> Decoded:
    """In the most plausible of the candidates. Raises UserError when that is not plausible, or others are as much."""
    readings = max(map(_readings, _samples(data)), key=lambda readings: readings[0].score if readings else 0)
    if not readings:
        raise UserError(_unknown(path, "in no encoding that is known here"))
    best, *others = readings
    rivals = [other for other in others if _is_rival(other, best)]
    confidence = round(best.score / (2 if rivals else 1), 3)
    doubtful = len(data) - len(_ascii_of(data))
    if confidence < LEAST_CONFIDENCE and (best.score < LEAST_CONFIDENCE or doubtful > len(data) * HARMLESS):
        names = " or ".join(reading.encoding for reading in [best, *rivals][:3])
        raise UserError(_unknown(path, f"perhaps {names}, confidence {confidence:.0%}"))
    return _read(data, codecs.lookup(best.encoding).name, path, confidence)


def _unknown(path: Path, found: str) -> str:
    return (
        f"data.source: {spelled(path)} is not UTF-8 ({found}); --set data.encoding=NAME says what it is, such as "
        "cp1252 or gb18030"
    )


def _readings(sample: bytes) -> list[_Reading]:
    """What `sample` may be, each text once, the most plausible first."""
    matches = charset_normalizer.from_bytes(sample, cp_isolation=list(_CANDIDATES))
    texts: dict[str, _Reading] = {}
    for match in matches:
        name = min(match.could_be_from_charset, key=_CANDIDATES.index)
        score = (1 - match.chaos) * plausible_share(str(match)) * (RARE if name in _RARE else 1)
        reading = _Reading(str(match), name, score, match.coherence)
        texts.setdefault(reading.text, reading)
    return sorted(
        texts.values(),
        key=lambda reading: (
            -round(reading.score, 2),
            -round(reading.coherence, 2),
            _CANDIDATES.index(reading.encoding),
        ),
    )


def _is_rival(other: _Reading, best: _Reading) -> bool:
    """Whether `other` is as plausible as `best` and differs from it in more than a few characters."""
    if round(other.score, 2) < round(best.score, 2) or other.coherence < best.coherence - 0.02:
        return False
    if len(other.text) != len(best.text):
        return True
    beyond = [
        (one, another) for one, another in zip(best.text, other.text, strict=True) if one > "\x7f" or another > "\x7f"
    ]
    return sum(one != another for one, another in beyond) > 0.05 * len(beyond)


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


def _ascii_of(data: bytes) -> bytes:
    return data.translate(None, delete=bytes(range(128, 256)))


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


def _without_surrogates(text: str) -> str:
    """Some codecs, such as UTF-7, give lone surrogates, which no text may have."""
    return _SURROGATE.sub(REPLACEMENT, text)
