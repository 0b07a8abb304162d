"""Which spans of a text stand in a training text word for word.

Every span is compared by a hash, a polynomial of its characters mod 2**64. Spans grow a character at a time, and only
where a shorter one is held: 16 texts of 400 characters against a million take half a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import numpy.typing as npt

MULTIPLIER = 0x9E3779B97F4A7C15  # of the hash, odd: 2**64 over the golden ratio
INVERSE = pow(MULTIPLIER, -1, 1 << 64)
SPREAD = np.uint64(0xD6E8FEB86659FD93)  # odd: neighbouring characters get distant numbers
RARE = 16  # characters: in most texts few places hold a span of so many, which makes _first_places cheap there
FILTER_BITS = 20
FILTERED = np.uint64(64 - FILTER_BITS)

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


class TrainingSpans:
    """The spans of `text`. With h(i) the sum of c(j) MULTIPLIER**j for j < i, the hash of the span from `start` to
    `end` is (h(end) - h(start)) MULTIPLIER**-start: all spans of one length are a subtraction."""

    def __init__(self, text: str):
        self._prefix = _prefix_hashes(text)

    def longest_in_each(self, texts: Sequence[str]) -> list[str]:
        """Of each text, the longest span that the training text holds; the first of several."""
        longest = [""] * len(texts)
        for length, held in self.held_in(texts):
            for number, places in enumerate(held):
                if len(places):
                    longest[number] = texts[number][places[0] :][:length]
        return longest

    def held_in(self, texts: Sequence[str]) -> Iterator[tuple[int, list[Places]]]:
        """Length by length, from 1 to the longest: where the spans of each text begin that the training text holds."""
        prefixes = [_prefix_hashes(text) for text in texts]
        powers = _powers(INVERSE, max(map(len, [self._prefix, *prefixes])))
        known, held = np.arange(len(self._prefix)), [np.arange(len(prefix)) for prefix in prefixes]
        for length in count(1):
            if length == RARE:
                known = _first_places(self._prefix, known, max(map(len, prefixes)) - 1, powers)
            known, of_known = _spans(self._prefix, known, length, powers)
            spans = [_spans(prefix, places, length, powers) for prefix, places in zip(prefixes, held, strict=True)]
            wanted = np.unique(np.concatenate([hashes for _, hashes in spans] or [of_known[:0]]))
            if not len(wanted):
                return
            may_be_wanted = np.zeros(1 << FILTER_BITS, np.bool_)  # by the first bits: most is left out at once
            may_be_wanted[wanted >> FILTERED] = True
            likely = may_be_wanted[of_known >> FILTERED]
            known, of_known = known[likely], of_known[likely]
            found = np.minimum(np.searchsorted(wanted, of_known), len(wanted) - 1)
            is_wanted = wanted[found] == of_known
            known, is_held = known[is_wanted], np.zeros(len(wanted), np.bool_)
            is_held[found[is_wanted]] = True
            held = [places[is_held[np.searchsorted(wanted, hashes)]] for places, hashes in spans]
            if not len(known):
                return
            yield length, held


def _spans(prefix: Hashes, places: Places, length: int, powers: Hashes) -> tuple[Places, Hashes]:
    """Those of `places` with `length` characters behind them, and the hashes of these spans."""
    places = places[: np.searchsorted(places, len(prefix) - length)]
    hashes: Hashes = (prefix[places + length] - prefix[places]) * powers[places]
    return places, hashes


def _first_places(prefix: Hashes, places: Places, length: int, powers: Hashes) -> Places:
    """The first of `places` for each span of `length` characters, and those with fewer characters behind them.

    What stands at one that is left out stands at the first one too. So a text that repeats itself, as "abab" does,
    takes no longer than another: a million characters 1 s, not 32.
    """
    whole, hashes = _spans(prefix, places, length, powers)
    _, first = np.unique(hashes, return_index=True)
    return np.concatenate([np.sort(whole[first]), places[len(whole) :]])


def _prefix_hashes(text: str) -> Hashes:
    """(characters + 1,)."""
    codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32).astype(np.uint64)
    numbers = (codes + np.uint64(1)) * SPREAD
    numbers ^= numbers >> np.uint64(32)
    sums = np.cumsum(numbers * _powers(MULTIPLIER, len(codes)), dtype=np.uint64)
    return np.concatenate([np.zeros(1, np.uint64), sums])


def _powers(base: int, length: int) -> Hashes:
    """base**0 .. base**(length - 1), mod 2**64."""
    factors = np.full(length, base, dtype=np.uint64)
    factors[:1] = 1
    return np.multiply.accumulate(factors, dtype=np.uint64)
