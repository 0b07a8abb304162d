"""What is kept of each document to compare it with all others: a digest of its text, and a sketch of its phrases.

The sketch is a MinHash signature (Broder 1997) of the set of phrases of five words, letter case and punctuation aside:
the share of slots in which two sketches agree estimates the share of phrases that two documents have in common
(Jaccard), with a standard deviation of 0.035 at 0.8. rensa computes it; words are hashed here, with numpy, in many
documents at once: 39 MB/s a core in all, against 16 where Python joins the words of each phrase, and 3 with datasketch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

SLOTS = 128
PHRASE = 5  # words
NO_SLOT = np.uint16(0xFFFF)  # in every slot of a document shorter than a phrase, which has no sketch
_SEED = 42
_BATCH = 1 << 18  # characters that are hashed at once, as 30 MB of numbers
_BASE = 0x9E3779B97F4A7C15  # an odd number: it has an inverse modulo 2**64
_UNSPACED = ((0x3040, 0x3100), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x34000))
_NO_WORD, _IN_WORD, _WORD_ALONE = range(3)  # what a character is; of Chinese and Japanese, each one is a word
U64: TypeAlias = npt.NDArray[np.uint64]
_NONE = np.zeros(0, np.uint64)


@dataclass(frozen=True)
class Fingerprints:
    """Of N documents in order: (N, 2) uint64 digests and (N, SLOTS) uint16 sketches, (N, 0) where none are made."""

    digests: U64
    sketches: npt.NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.digests)


def fingerprints(texts: Sequence[str], *, sketched: bool = True) -> Fingerprints:
    """Of each text by itself: the others change nothing. To hand over many at once is faster."""
    digests = np.empty((len(texts), 2), np.uint64)
    for place, text in enumerate(texts):
        digests[place] = np.frombuffer(hashlib.sha256(text.encode("utf-8")).digest()[:16], ">u8")
    sketches = np.full((len(texts), SLOTS if sketched else 0), NO_SLOT)
    if sketched:
        for first, end in _batches(texts):
            sketches[first:end] = _sketch([text.lower() for text in texts[first:end]])
    return Fingerprints(digests, sketches)


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """[first, end) of texts that have _BATCH characters together, or of one that has more."""
    first = characters = 0
    for place, text in enumerate(texts):
        if characters and characters + len(text) > _BATCH:
            yield first, place
            first, characters = place, 0
        characters += len(text) + 1
    if first < len(texts):
        yield first, len(texts)


def _sketch(texts: list[str]) -> npt.NDArray[np.uint16]:
    """(len(texts), SLOTS) of texts in lower case."""
    words, places = _word_hashes("\n".join(texts))
    ends = np.searchsorted(places, np.cumsum([len(text) + 1 for text in texts]))
    sketches = np.full((len(texts), SLOTS), NO_SLOT)
    long = np.flatnonzero(np.diff(ends, prepend=0) >= PHRASE)
    if len(long):
        phrases = [_phrase_hashes(words[ends[text - 1] if text else 0 : ends[text]]) for text in long]
        rows = np.cumsum([0, *map(len, phrases)])
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(phrases), rows.tolist(), SLOTS, _SEED)
        slots = np.array(matrix.to_rows(), np.uint32)
        # 16 of 32 bits: two different slots seem equal once in 65,536, and a sketch takes half of the place. Spread
        # first, because the least of many hashes is small.
        sketches[long] = (slots * np.uint32(0x9E3779B1)) >> np.uint32(16)
    return sketches


def _word_hashes(text: str) -> tuple[U64, npt.NDArray[np.intp]]:
    """(W,) hashes of the words, the same wherever a word stands, and (W,) where each begins."""
    hashes, places = [], []
    first = 0
    while first < len(text):
        end = first + 2 * _BATCH  # more than several texts together have, in lower case
        if end < len(text):
            end = max(text.rfind(" ", first, end), text.rfind("\n", first, end)) + 1 or end
        some, begins = _word_hashes_at_once(text[first:end])
        hashes.append(some)
        places.append(begins + first)
        first = end
    return np.concatenate([*hashes, _NONE]), np.concatenate([*places, _NONE]).astype(np.intp)


def _word_hashes_at_once(text: str) -> tuple[U64, npt.NDArray[np.intp]]:
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    kinds = _kinds()[codes]
    joined = (kinds[1:] == _IN_WORD) & (kinds[:-1] == _IN_WORD)  # each character with the next, in one word
    inside = kinds != _NO_WORD
    first = np.flatnonzero(inside & ~np.concatenate(([False], joined)))
    last = np.flatnonzero(inside & ~np.concatenate((joined, [False])))
    powers, inverses = _powers()
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(codes * powers[: len(codes)], out=sums[1:])  # polynomials modulo 2**64
    return _mixed((sums[last + 1] - sums[first]) * inverses[first]), first


def _phrase_hashes(words: U64) -> U64:
    """(W,) -> (W - PHRASE + 1,)"""
    hashes = words[: len(words) - PHRASE + 1].copy()
    for place in range(1, PHRASE):
        hashes = hashes * np.uint64(_BASE) + words[place : len(words) - PHRASE + 1 + place]
    return hashes


def _mixed(hashes: U64) -> U64:
    """Every bit out depends on every bit in (splitmix64's finaliser)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


@cache
def _kinds() -> npt.NDArray[np.uint8]:
    """(every code point,); 30 ms, once a process."""
    kinds = np.zeros(0x110000, np.uint8)
    kinds[[code for code in range(0x34000) if chr(code).isalnum()]] = _IN_WORD
    for first, end in _UNSPACED:
        kinds[first:end] *= _WORD_ALONE
    return kinds


@cache
def _powers() -> tuple[U64, U64]:
    """(2 * _BATCH,) of the base, and of its inverse."""
    return _row_of_powers(_BASE), _row_of_powers(pow(_BASE, -1, 1 << 64))


def _row_of_powers(base: int) -> U64:
    factors = np.full(2 * _BATCH, base, np.uint64)
    factors[0] = 1
    powers: U64 = np.cumprod(factors)
    return powers
