"""The order of samples is a pure function of seed and index; every epoch sees each window once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.data.data_loader import IGNORED, Samples, windows
from nanogpt.faults import UserError

pytestmark = pytest.mark.fast
sizes = st.tuples(st.integers(1, 40), st.integers(1, 400)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def counting(length):
    """Tokens that say where they stand."""
    return np.arange(length, dtype=np.uint16)


@given(sizes, st.integers(0, 2**32), st.integers(0, 500), st.integers(1, 8))
def test_a_batch_depends_on_seed_and_index_alone(size, seed, first, count):
    block, length = size
    walked = Samples(counting(length), block, seed)
    for index in range(0, first, 97):
        walked.batch(index, 3)
    fresh = Samples(counting(length), block, seed)
    for row, together in enumerate(zip(*walked.batch(first, count), strict=True)):
        alone = fresh.batch(first + row, 1)
        assert torch.equal(together[0], alone[0][0]) and torch.equal(together[1], alone[1][0])


@given(sizes, st.integers(0, 2**32), st.integers(0, 5))
def test_an_epoch_is_a_permutation_of_disjoint_windows(size, seed, epoch):
    block, length = size
    samples = Samples(counting(length), block, seed)
    starts = np.sort(samples.starts(epoch))
    assert len(starts) == samples.windows_per_epoch
    assert np.all(np.diff(starts) == block) and starts[0] >= 0 and starts[-1] + block + 1 <= length
    assert len(starts) * block >= length - 2 * block  # nothing but the ends is left out


@given(sizes, st.integers(0, 2**32))
def test_targets_are_the_next_tokens(size, seed):
    block, length = size
    x, y = Samples(counting(length), block, seed).batch(0, 4)
    assert x.shape == y.shape == (4, block) and x.dtype == y.dtype == torch.int64
    assert torch.equal(y, x + 1)


def test_epochs_and_seeds_differ():
    samples = Samples(counting(5000), 10, 1)
    phases = {int(samples.starts(epoch).min()) % 10 for epoch in range(40)}
    assert len(phases) > 5
    assert not torch.equal(samples.batch(0, 8)[0], Samples(counting(5000), 10, 2).batch(0, 8)[0])


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
