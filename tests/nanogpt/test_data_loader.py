"""The order of samples is a pure function of seed and index; every epoch sees each window once."""

import tracemalloc
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.data import data_loader
from nanogpt.data.data_loader import IGNORED, Samples, windows
from nanogpt.data.order import KeyedPermutation
from nanogpt.faults import UserError

pytestmark = pytest.mark.fast
sizes = st.tuples(st.integers(1, 40), st.integers(1, 400)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def counting(length):
    """Tokens that say where they stand."""
    return np.arange(length, dtype=np.uint16)


@given(sizes, st.integers(0, 2**32), st.integers(0, 500), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_a_batch_depends_on_seed_and_index_alone(size, seed, first, count):
    block, length = size
    walked = Samples(counting(length), block, seed)
    for index in range(0, first, 97):
        walked.batch(index, 3)
    inputs, targets = walked.batch(first, count)
    assert inputs.shape == targets.shape == (count, block) and inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(targets, inputs + 1)
    fresh = Samples(counting(length), block, seed).batch(first, count)
    assert torch.equal(fresh[0], inputs) and torch.equal(fresh[1], targets)


@given(sizes, st.integers(0, 2**32), st.integers(0, 5), st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_epoch_sees_disjoint_windows_once_listed_or_not(size, seed, epoch, listed):
    block, length = size
    with patch.object(data_loader, "MOST_LISTED", 10**7 if listed else 0), patch.object(data_loader, "PAGE", 7):
        samples = Samples(counting(length), block, seed)
        indices = range(epoch * samples.windows_per_epoch, (epoch + 1) * samples.windows_per_epoch)
        starts = np.sort([int(samples.window(index)[0]) for index in indices])
    assert np.all(np.diff(starts) == block) and starts[0] >= 0 and starts[-1] + block + 1 <= length
    assert len(starts) * block >= length - 2 * block  # nothing but the ends is left out


def test_epochs_and_seeds_differ():
    samples = Samples(counting(5000), 10, 1)
    phases = {int(samples.window(epoch * samples.windows_per_epoch)[0]) % 10 for epoch in range(40)}
    assert len(phases) > 5
    assert not torch.equal(samples.batch(0, 8)[0], Samples(counting(5000), 10, 2).batch(0, 8)[0])


class Endless:
    """Ids of a text that is nowhere: token t is t % 50,000."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, places):
        return (np.arange(places.start, places.stop) % 50_000).astype(np.uint16)


def test_an_epoch_of_any_size_is_shuffled_in_constant_memory():
    samples, seen = Samples(Endless(10**15), 100, 3), []
    tracemalloc.start()
    for first in (0, 10**9, 9 * 10**12, 10**13 + 17):  # the last is of the second epoch
        seen.append(samples.batch(first, 64)[0])
        assert torch.equal(seen[-1][:, 1:], (seen[-1][:, :-1] + 1) % 50_000)
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()
    assert len(torch.unique(torch.cat(seen)[:, 0])) > 180  # of 500 starts in 50,000 tokens: windows from everywhere


@given(st.integers(1, 3000), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_a_keyed_permutation_has_each_element_once(size, key):
    found = KeyedPermutation(size, [key, 1])[np.arange(size)]
    assert np.array_equal(np.sort(found), np.arange(size))
    assert size < 20 or not np.array_equal(found, KeyedPermutation(size, [key, 2])[np.arange(size)])


def test_a_keyed_permutation_prefers_no_place_and_no_order():
    """Chi-square of where the first element goes and of the distance to the second, over 4,000 keys."""
    placed = np.array([KeyedPermutation(20, [7, key])[np.arange(2)] for key in range(4000)])
    for counts in (np.bincount(placed[:, 0], minlength=20), np.bincount((placed[:, 1] - placed[:, 0]) % 20)[1:]):
        expected = 4000 / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 50  # 19 degrees of freedom: p = 1e-4


def test_text_shorter_than_a_block_is_a_mistake():
    with pytest.raises(UserError, match="block_size"):
        Samples(counting(8), 8, 0)
    Samples(counting(9), 8, 0).batch(0, 3)


@given(st.integers(0, 200), st.integers(1, 50), st.integers(1, 7))
def test_windows_predict_every_token_but_the_first_once(length, window, batch_size):
    targets = []
    for x, y in windows(counting(length), window, batch_size):
        assert x.shape == y.shape and x.shape[0] <= batch_size and x.shape[1] == window
        counted = y != IGNORED
        assert torch.equal(y[counted], x[counted] + 1)
        targets += y[counted].tolist()
    assert targets == list(range(1, length))
