"""Which documents are kept, and which split each falls in: decided over all documents by their fingerprints.

A document falls in a split by its own digest: the same one whatever else there is, in whatever order it comes and
however many workers read it. A larger corpus, of which smaller shares are held out, moves none between val and test.
Where documents are too few for that, they are cut as one text, in the order of their digests; the parts of one long
text are cut in their own order (by_place). Near duplicates all fall in the split of the one with the smallest digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nanogpt.config import DataConfig
from nanogpt.corpus.duplicates import Families, Flags, repeated
from nanogpt.corpus.fates import Fate
from nanogpt.corpus.fingerprints import U64, Fingerprints
from nanogpt.data.texts import SPLITS
from nanogpt.faults import UserError

TRAIN, VAL, TEST = range(3)  # places in SPLITS
LARGEST_HELD_OUT = 4 << 20  # characters of val, and of test: evaluation reads them whole
FEWEST_DOCUMENTS = 30  # expected in val and in test: chance then leaves them near their shares, to a fifth or so
Splits: TypeAlias = npt.NDArray[np.uint8]  # TRAIN, VAL or TEST


@dataclass(frozen=True)
class HeldOut:
    """The shares of val and test: those of the configuration, or less where evaluation would have too much to read."""

    val: float
    test: float

    @classmethod
    def of(cls, characters: int, config: DataConfig) -> HeldOut:
        """For a corpus of `characters`."""
        largest = LARGEST_HELD_OUT / max(characters, 1)
        return cls(min(config.val_fraction, largest), min(config.test_fraction, largest))


@dataclass(frozen=True)
class Division:
    """(N,) each. `fates`: places in FATES; `splits`: places in SPLITS, of documents that are kept."""

    fates: npt.NDArray[np.uint8]
    splits: Splits
    crossings: int  # as nanogpt.results.text.DocumentFates has it


FATES = (Fate.KEPT, Fate.DUPLICATE, Fate.NEAR_DUPLICATE)


def divide(prints: Fingerprints, characters: npt.NDArray[np.int64], config: DataConfig) -> Division:
    """Decide over N documents; `characters` are their lengths. Raises UserError where there are too few to split."""
    is_distinct = ~repeated(prints.digests)
    families = Families(prints, config.similarity, is_distinct & (config.near_duplicates != "ignore"))
    while True:
        roots = families.roots()
        is_root = is_distinct & (roots == np.arange(len(roots)))
        is_kept = is_root if config.near_duplicates == "drop" else is_distinct
        own = _splits(prints.digests, characters, is_kept, config)
        if not families.unite_across(own[roots], is_kept):
            break
    fates = np.where(is_distinct, np.where(is_kept, 0, 2), 1).astype(np.uint8)
    crossings = int(((own == 0) != (own[roots] == 0))[is_distinct].sum())
    return Division(fates, own[roots], crossings)


def like_published(prints: Fingerprints, published: Splits, config: DataConfig) -> npt.NDArray[np.uint8]:
    """(N,) places in FATES, of documents that their publisher divided into `published` splits.

    Training text that is the same as a document which was held out is not kept, nor is what is nearly the same, unless
    `config` ignores that.
    """
    held_out = published != TRAIN
    fates = np.zeros(len(published), np.uint8)
    same = np.isin(prints.digests[:, 0], prints.digests[held_out, 0])
    if config.near_duplicates != "ignore":
        families = Families(prints, config.similarity, np.ones_like(held_out))
        while families.unite_across(held_out.astype(np.uint8), np.ones_like(held_out)):
            pass
        roots = families.roots()
        fates[np.isin(roots, roots[held_out])] = FATES.index(Fate.NEAR_DUPLICATE)
    fates[same] = FATES.index(Fate.DUPLICATE)
    fates[held_out] = FATES.index(Fate.KEPT)
    return fates


def _splits(digests: U64, characters: npt.NDArray[np.int64], is_kept: Flags, config: DataConfig) -> Splits:
    """(N,) where each document would fall by itself."""
    held_out = HeldOut.of(int(characters[is_kept].sum()), config)
    if int(is_kept.sum()) * min(held_out.val, held_out.test) >= FEWEST_DOCUMENTS:
        return by_digest(digests[:, 0], held_out)
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    splits = np.empty(len(digests), np.uint8)
    splits[order] = by_place(np.where(is_kept, characters, 0)[order], held_out)
    return splits


def by_digest(units: U64, held_out: HeldOut) -> Splits:
    """(N,) first 64 bits of digests -> (N,) splits: val from the low end of all digests, test from the high end."""
    splits = np.full(units.shape, TRAIN, np.uint8)
    splits[units < np.uint64(held_out.val * 2**64)] = VAL
    splits[~units < np.uint64(held_out.test * 2**64)] = TEST
    return splits


def by_place(characters: npt.NDArray[np.int64], held_out: HeldOut) -> Splits:
    """(N,) lengths of documents in their order -> (N,) splits: training text, then val, then test, none of them empty,
    cut at borders of documents. Documents of no length fall where they stand. Raises UserError for fewer than three."""
    present = np.flatnonzero(characters)
    if len(present) < len(SPLITS):
        raise UserError(
            f"data.source: {len(present)} {'text is' if len(present) == 1 else 'texts are'} left of it; at least "
            f"{len(SPLITS)} are needed for {', '.join(SPLITS)}"
        )
    middles = (np.cumsum(characters) - characters / 2)[present]
    shares = np.array([1 - held_out.val - held_out.test, 1 - held_out.test])
    val_first, test_first = np.searchsorted(middles, characters.sum() * shares)
    test_first = min(max(int(test_first), 2), len(present) - 1)
    val_first = min(max(int(val_first), 1), test_first - 1)
    splits = np.full(len(characters), TRAIN, np.uint8)
    splits[present[val_first] :] = VAL
    splits[present[test_first] :] = TEST
    return splits
