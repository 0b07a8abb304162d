"""What simple models reach on the same text, in bits per byte, to compare a trained model with.

All of them predict bytes, so they compare with each other, with xz and with a model of any tokenizer. They learn
from train and are measured on the whole of test.
"""

import lzma
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanogpt.results.evaluation import Baseline

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Grams = NDArray[np.uint64]
BYTES = 256
ORDER = 5
# Text beyond this changes a 5-gram of bytes little and would cost minutes; the end nearest to test is kept.
LARGEST_TRAINING_TEXT = 8 << 20


def compare(text_folder: Path) -> list[Baseline]:
    """Every baseline on the splits that preprocessing.prepare wrote into `text_folder`; under 10 s a megabyte."""
    train = (text_folder / "train.txt").read_bytes()[-LARGEST_TRAINING_TEXT:]
    test = (text_folder / "test.txt").read_bytes()
    measures: list[tuple[str, str, Callable[[bytes, bytes], float]]] = [
        ("uniform", "each byte that train holds is equally likely", _uniform),
        ("unigram", "how often each byte occurs in train", _unigram),
        ("5-gram", "four bytes of context, interpolated modified Kneser-Ney", _five_gram),
        ("xz (test alone)", "xz -9e on the test text, container and all", _xz),
        ("xz (after train)", "what test adds to xz -9e of the training text", _xz_after),
    ]
    rows = []
    for name, explanation, measure in measures:
        started = time.perf_counter()
        bits = measure(train, test)
        rows.append(Baseline(name, bits, explanation, time.perf_counter() - started))
    return rows


def uniform_distribution(train: bytes) -> Floats:
    """(256,) probabilities: one share for each byte that occurs, one more divided among those that do not."""
    counts = _counts(train)
    seen = int((counts > 0).sum())
    if seen == BYTES:
        return np.full(BYTES, 1 / BYTES)
    return np.where(counts > 0, 1 / (seen + 1), 1 / (seen + 1) / (BYTES - seen))


def unigram_distribution(train: bytes) -> Floats:
    """(256,) probabilities with Krichevsky and Trofimov's half count added, so that none is zero."""
    counts = _counts(train) + np.float64(0.5)
    probabilities: Floats = counts / counts.sum()
    return probabilities


class KneserNey:
    """Interpolated modified Kneser-Ney smoothing of byte n-grams (Chen and Goodman 1999, section 3).

    The longest n-grams are counted as they occur, shorter ones by how many different bytes precede them; three
    discounts for each length (counts 1, 2, 3 and more); the shortest interpolates with the uniform distribution.
    An n-gram is one integer of `order` bytes, so that counting is sorting.
    """

    def __init__(self, train: bytes, order: int = ORDER):
        """A text is taken to stand after newlines.

        Raises ValueError for an order beyond 8 (an n-gram is a uint64) and for empty text.
        """
        if not 1 <= order <= 8 or not train:
            raise ValueError(f"order must be 1 to 8 and the text not empty, found order {order}, {len(train)} bytes")
        self.order = order
        grams, counts = np.unique(_grams(_before(order) + train, order), return_counts=True)
        self._levels = [_Level(grams, counts)]
        for length in range(order - 1, 0, -1):  # each distinct longer gram is one kind of predecessor
            shorter = grams & np.uint64((1 << 8 * length) - 1)
            grams, counts = np.unique(shorter, return_counts=True)
            self._levels.append(_Level(grams, counts))
        self._levels.reverse()  # now by length: 1 .. order

    def probabilities(self, text: bytes) -> Floats:
        """(len(text),) float64: the probability of each byte after those before it."""
        return self._of(_grams(_before(self.order) + text, self.order))

    def distribution(self, context: bytes) -> Floats:
        """(256,) float64: the probability of each next byte after `context`."""
        context = (_before(self.order) + context)[len(context) :]  # its last order - 1 bytes
        prefix = int.from_bytes(context, "big") << 8
        return self._of(np.uint64(prefix) + np.arange(BYTES, dtype=np.uint64))

    def bits_per_byte(self, text: bytes) -> float:
        """Cross-entropy of `text` in bits a byte; nan for empty text."""
        return float(-np.log2(self.probabilities(text)).mean()) if text else math.nan

    def _of(self, grams: Grams) -> Floats:
        probability = np.full(len(grams), 1 / BYTES)
        for length, level in enumerate(self._levels, start=1):
            probability = level.interpolate(grams & np.uint64((1 << 8 * length) - 1), probability)
        return probability


class _Level:
    """The counts of all n-grams of one length, and what is kept back from them for shorter ones."""

    def __init__(self, grams: Grams, counts: Counts):
        """`grams` (G,) uint64 sorted and distinct, `counts` (G,)."""
        self.discounts = _discounts(counts)
        self.grams, self.counts = grams, counts
        self.contexts, first = np.unique(grams >> np.uint64(8), return_index=True)
        taken = self.discounts[np.minimum(counts, 3)]
        self.totals = np.add.reduceat(counts, first).astype(np.float64)
        self.kept_back = np.add.reduceat(taken, first) / self.totals

    def interpolate(self, grams: Grams, shorter: Floats) -> Floats:
        """p(byte | context) = max(c - D(c), 0) / c(context) + kept_back(context) * `shorter`; (N,)."""
        context, known = _find(self.contexts, grams >> np.uint64(8))
        place, seen = _find(self.grams, grams)
        count = np.where(seen, self.counts[place], 0)
        discounted = np.maximum(count - self.discounts[np.minimum(count, 3)], 0)
        mixed = discounted / self.totals[context] + self.kept_back[context] * shorter
        return np.where(known, mixed, shorter)


def _discounts(counts: Counts) -> Floats:
    """(4,) what is taken from counts 0, 1, 2, 3+: Chen and Goodman's estimates, or 0.5, 1, 1.5 on tiny text."""
    ones, twos, threes, fours = (int((counts == n).sum()) for n in (1, 2, 3, 4))
    if not (ones and twos and threes):
        return np.array([0.0, 0.5, 1.0, 1.5])
    y = ones / (ones + 2 * twos)
    estimates = np.array([0.0, 1 - 2 * y * twos / ones, 2 - 3 * y * threes / twos, 3 - 4 * y * fours / threes])
    discounts: Floats = np.clip(estimates, [0, 0.1, 0.1, 0.1], [0, 0.9, 1.9, 2.9])
    return discounts


def _find(table: Grams, wanted: Grams) -> tuple[Counts, NDArray[np.bool_]]:
    """Places (N,) of `wanted` in the sorted `table`, and whether each is really there (N,)."""
    place = np.minimum(np.searchsorted(table, wanted), len(table) - 1)
    return place, table[place] == wanted


def _before(order: int) -> bytes:
    return b"\n" * (order - 1)


def _grams(text: bytes, length: int) -> Grams:
    """(len(text) - length + 1,) uint64: each `length` neighbouring bytes as one big-endian number."""
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.uint64)
    count = len(codes) - length + 1
    packed = np.zeros(count, dtype=np.uint64)
    for offset in range(length):
        packed = (packed << np.uint64(8)) | codes[offset : offset + count]
    return packed


def _counts(text: bytes) -> Counts:
    return np.bincount(np.frombuffer(text, dtype=np.uint8), minlength=BYTES)


def _cost(distribution: Floats, test: bytes) -> float:
    return float(-np.log2(distribution[np.frombuffer(test, dtype=np.uint8)]).mean())


def _uniform(train: bytes, test: bytes) -> float:
    return _cost(uniform_distribution(train), test)


def _unigram(train: bytes, test: bytes) -> float:
    return _cost(unigram_distribution(train), test)


def _five_gram(train: bytes, test: bytes) -> float:
    return KneserNey(train).bits_per_byte(test)


def _xz(_: bytes, test: bytes) -> float:
    return 8 * _xz_size(test) / len(test)


def _xz_after(train: bytes, test: bytes) -> float:
    return 8 * (_xz_size(train + test) - _xz_size(train)) / len(test)


def _xz_size(text: bytes) -> int:
    return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
