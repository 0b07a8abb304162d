"""Bytes of a document -> text, in whatever encoding people have; what cannot be read as text is refused.

A byte-order mark decides, then UTF-8 if nearly all of it is valid, then UTF-16 and UTF-32 without a mark; any other
encoding is detected (detection.py). `confidence` is how plausible that is, and half of it when another encoding is as
plausible.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nanogpt.faults import UserError
from nanogpt.sources import detection
from nanogpt.spelling import spelled
from nanogpt.units import percent

REPLACEMENT = "\ufffd"
LEAST_CONFIDENCE = 0.8
MOST_REPLACED = 0.01  # of the characters, in an encoding that a mark, a person or detection named
# UTF-8 as long as this share of the sequences beyond ASCII is valid: a text in another encoding has hardly any.
LEAST_VALID = 0.8
HEAD = 1 << 20  # bytes that are looked at for what the whole is
MOST_STRAY = 0.1  # of the bytes of a text in UTF-8 with NUL or other controls in it: more are a text in UTF-16
HARMLESS = 0.001  # of the bytes: so few doubtful ones are no reason to refuse a text

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
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
        return _with_stray_controls(data) or _without_mark(data, path)
    return _utf8(data) or _detected(data, path)


def is_binary(head: bytes) -> bool:
    """Whether the first bytes of a file cannot be text in a code of single bytes: NUL, or many control characters."""
    return b"\0" in head or _controls(head) > len(head) // 1000


def _controls(head: bytes) -> int:
    return sum(head.count(code) for code in (*range(1, 9), *range(14, 27), *range(28, 32)))


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


def _with_stray_controls(data: bytes) -> Decoded | None:
    """In UTF-8, if that is what it is but for some NUL, as a log has where a machine was switched off, or for other
    control characters, as what a terminal was sent has them. Without NUL it is not UTF-16, which has one in each space.
    """
    nul = data.count(0)
    if (nul or _controls(data)) > len(data) * MOST_STRAY or (nul and is_binary(data[:HEAD].replace(b"\0", b""))):
        return None
    decoded = _utf8(data)
    return decoded if decoded and decoded.replaced <= 1 else None  # of a long text's beginning, a last one is cut


def _without_mark(data: bytes, path: Path) -> Decoded:
    """In UTF-16 or UTF-32, by the one in which nearly all are characters of texts. Raises UserError when none is."""
    head = data[: HEAD - HEAD % 4]
    shares = {}
    for encoding in _WIDE:
        if _has_nul_in_the_wrong_half(head, encoding):
            continue
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


def _has_nul_in_the_wrong_half(head: bytes, encoding: str) -> bool:
    """Whether NUL stands where UTF-16 has it in few characters: the other half is NUL in every one of ASCII."""
    if not encoding.startswith("utf-16"):
        return False
    wrong = head[0::2] if encoding == "utf-16-le" else head[1::2]
    return wrong.count(0) > head.count(0) // 20


def _is_strange(character: str) -> bool:
    """A control character, or one that Unicode has not assigned."""
    return unicodedata.category(character) in ("Cc", "Cn", "Co") and character not in _LAYOUT


def _detected(data: bytes, path: Path) -> Decoded:
    """In the likeliest encoding. Raises UserError when that is not plausible, or others are as plausible."""
    guesses = detection.guesses(data)
    if not guesses:
        raise UserError(_doubt(path, "in no encoding that is known here"))
    best, *others = guesses
    rivals = [other for other in others if other.is_rival_of(best)]
    confidence = round(best.plausibility / (2 if rivals else 1), 3)
    is_harmless = len(data) - len(_ascii_of(data)) <= len(data) * HARMLESS
    if best.plausibility < LEAST_CONFIDENCE or (confidence < LEAST_CONFIDENCE and not is_harmless):
        names = " or ".join(guess.encoding for guess in [best, *rivals][:3])
        raise UserError(_doubt(path, f"perhaps {names}, confidence {percent(confidence, 0)}"))
    return _read(data, codecs.lookup(best.encoding).name, path, confidence)


def _doubt(path: Path, found: str) -> str:
    return (
        f"data.source: {spelled(path)} is not UTF-8 ({found}); --set data.encoding=NAME says what it is, such as "
        "cp1252 or gb18030"
    )


def _ascii_of(data: bytes) -> bytes:
    return data.translate(None, delete=bytes(range(128, 256)))


def _without_surrogates(text: str) -> str:
    """Some codecs, such as UTF-7, give lone surrogates, which no text may have."""
    return _SURROGATE.sub(REPLACEMENT, text)
