"""Documents that are the same, and families of those that are nearly the same, among any number of documents.

Two documents are near duplicates if their sketches agree in a band of slots and in as large a share of all slots as is
asked for (locality-sensitive hashing: 21 bands of 6 slots find 99.8 % of the pairs whose similarity is 0.8).
The result depends on the set of texts alone: where one of several is chosen, it is the one with the smallest digest.
Fingerprints may be memory-mapped: 46 bytes of each document are in memory, and up to 400 MB more while the documents
that share a band are sorted. A million documents take 15 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nanogpt.corpus.fingerprints import NO_SLOT, SLOTS, U64, Fingerprints

ROWS = 6  # slots in a band
BANDS = SLOTS // ROWS
_BLOCK = 1 << 16  # sketches compared at once: 16 MB each side
_MOST_AT_ONCE = 1 << 22  # keys sorted at once
_MOST_LEADERS = 256  # of a bucket: more are pages of one template, which have a band in common and little else
Indices: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]


def repeated(digests: U64) -> Flags:
    """(N, 2) -> (N,) whether the same document came before."""
    flags = np.zeros(len(digests), np.bool_)
    for some in _parts(digests[:, 0], np.ones(len(digests), np.bool_)):
        order = some[np.lexsort((some, digests[some, 1], digests[some, 0]))]
        flags[order[1:][(digests[order[1:]] == digests[order[:-1]]).all(axis=1)]] = True
    return flags


class Families:
    """Which documents belong together. `roots` names the family of each: its member with the smallest digest."""

    def __init__(self, prints: Fingerprints, similarity: float, among: Flags) -> None:
        """Near duplicates among the documents for which `among` holds."""
        self._prints = prints
        self._order = prints.digests[:, 0]
        self._least = int(np.ceil(similarity * SLOTS))  # slots in which near duplicates agree
        self._parents: Indices = np.arange(len(prints))
        self._among = among & _have_sketches(prints.sketches)
        for members, groups in self._buckets(self._among):
            for some, others in self._followers(members, groups):
                self._unite(some, others)

    def roots(self) -> Indices:
        """(N,)"""
        return self._roots_of(np.arange(len(self._parents)))

    def unite_across(self, splits: npt.NDArray[np.uint8], among: Flags) -> int:
        """Unite each two near duplicates in different `splits` of which one is not in split 0; how many there were.

        Families grow from pairs with one document of a bucket, so that two members of different families may still be
        near duplicates: here all pairs are compared that the wall would part.
        """
        united = 0
        for members, groups in self._buckets(among & self._among):
            for some, others in _pairs_across(members, groups, splits):
                apart = self._roots_of(some) != self._roots_of(others)
                some, others = some[apart], others[apart]
                similar = self._are_similar(some, others)
                self._unite(some[similar], others[similar])
                united += int(similar.sum())
        return united

    def _buckets(self, among: Flags) -> Iterator[tuple[Indices, Indices]]:
        """(M,) documents that share a band with another, and (M,) with which: sorted by band, then digest."""
        for band in range(BANDS if among.any() else 0):
            keys = self._keys(band)
            for some in _parts(keys, among):
                members = some[np.lexsort((self._order[some], keys[some]))]
                _, groups, sizes = np.unique(keys[members], return_inverse=True, return_counts=True)
                shared = sizes[groups] > 1
                if shared.any():
                    yield members[shared], groups[shared]

    def _keys(self, band: int) -> U64:
        """(N,) of the slots of a band: equal where all are."""
        keys = np.empty(len(self._prints), np.uint64)
        for first in range(0, len(keys), _BLOCK):
            slots = self._prints.sketches[first : first + _BLOCK, band * ROWS : (band + 1) * ROWS].astype(np.uint64)
            key = slots[:, 0]
            for row in range(1, ROWS):
                key = key * np.uint64(0x9E3779B97F4A7C15) + slots[:, row] + np.uint64(1)
            keys[first : first + _BLOCK] = key ^ (key >> np.uint64(29))
        return keys

    def _followers(self, members: Indices, groups: Indices) -> Iterator[tuple[Indices, Indices]]:
        """Pairs of near duplicates: each document with the first of its bucket, its leader; the rest likewise."""
        for _ in range(_MOST_LEADERS):
            begins = np.flatnonzero(np.diff(groups, prepend=-1))
            leaders = np.repeat(members[begins], np.diff(begins, append=len(members)))
            follows = members != leaders
            members, groups, leaders = members[follows], groups[follows], leaders[follows]
            similar = self._are_similar(leaders, members)
            yield leaders[similar], members[similar]
            members, groups = members[~similar], groups[~similar]
            if not len(members):
                return

    def _are_similar(self, some: Indices, others: Indices) -> Flags:
        similar = np.empty(len(some), np.bool_)
        for first in range(0, len(some), _BLOCK):
            block = slice(first, first + _BLOCK)
            agree = self._prints.sketches[some[block]] == self._prints.sketches[others[block]]
            similar[block] = np.count_nonzero(agree, axis=1) >= self._least
        return similar

    def _unite(self, some: Indices, others: Indices) -> None:
        """Join the families of each pair under the smaller digest."""
        while len(some):
            one, other = self._roots_of(some), self._roots_of(others)
            apart = one != other
            some, others, one, other = some[apart], others[apart], one[apart], other[apart]
            is_first = (self._order[one] < self._order[other]) | (
                (self._order[one] == self._order[other]) & (one < other)
            )
            # Where a root has several smaller ones, it gets one of them; the next round joins the rest.
            self._parents[np.where(is_first, other, one)] = np.where(is_first, one, other)

    def _roots_of(self, documents: Indices) -> Indices:
        while True:
            parents = self._parents[documents]
            above = self._parents[parents]
            if np.array_equal(parents, above):
                return parents
            self._parents[documents] = above


def _have_sketches(sketches: npt.NDArray[np.uint16]) -> Flags:
    """(N, slots) -> (N,)"""
    blocks = range(0, len(sketches), _BLOCK)
    found = [(sketches[first : first + _BLOCK] != NO_SLOT).any(axis=1) for first in blocks]
    return np.concatenate([*found, np.zeros(0, np.bool_)])


def _parts(keys: U64, among: Flags) -> Iterator[Indices]:
    """The documents for which `among` holds, in parts of about _MOST_AT_ONCE; equal keys fall in one part."""
    parts = -(-len(keys) // _MOST_AT_ONCE)
    width = np.uint64((1 << 64) // parts + 1 if parts > 1 else 0)
    for part in range(parts):
        yield np.flatnonzero(among if parts == 1 else among & (keys // width == part))


def _pairs_across(
    members: Indices, groups: Indices, splits: npt.NDArray[np.uint8]
) -> Iterator[tuple[Indices, Indices]]:
    """Each member in a split other than 0 with every member of its bucket in another split."""
    begins = np.flatnonzero(np.diff(groups, prepend=-1))
    sizes = np.diff(begins, append=len(members))
    bucket = np.repeat(np.arange(len(begins)), sizes)
    held_out = np.flatnonzero(splits[members] != 0)
    counts = sizes[bucket[held_out]]
    ends = np.cumsum(counts)
    for first in range(0, int(ends[-1]) if len(ends) else 0, _BLOCK):
        pairs = np.arange(first, min(first + _BLOCK, int(ends[-1])))
        which = np.searchsorted(ends, pairs, side="right")
        one = held_out[which]
        other = begins[bucket[one]] + pairs - (ends - counts)[which]
        across = splits[members[one]] != splits[members[other]]
        yield members[one[across]], members[other[across]]
