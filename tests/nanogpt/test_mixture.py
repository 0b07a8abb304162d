"""A mixture keeps to its weights, and reads each of its texts as that text alone is read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.data.mixture import CYCLE, Mixture, shares_of

pytestmark = pytest.mark.fast


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30), st.integers(100, 2000))
@settings(max_examples=40, deadline=None)
def test_shares_add_up_and_are_within_one_of_the_weight_but_for_the_least(weights, total):
    shares = shares_of(weights, total)
    exact = np.array(weights) / sum(weights) * total
    assert shares.sum() == total and shares.min() >= 1
    assert np.all(shares < exact + 1 + 1e-6) and np.all(shares > exact - 1 - (exact < 1).sum())


@given(st.lists(st.integers(1, 20), min_size=2, max_size=4), st.integers(0, 2**32), st.integers(0, 10**9))
@settings(max_examples=10, deadline=None)
def test_each_text_has_its_share_and_its_windows_once_before_again(weights, seed, cycle):
    texts = {str(n): np.arange(n * 10_000, n * 10_000 + 700 + 90 * n, dtype=np.uint16) for n in range(len(weights))}
    mixture = Mixture(texts, weights, 8, seed)
    indices = range(cycle * CYCLE, (cycle + 1) * CYCLE)
    sources = np.array([mixture.source(index) for index in indices])
    assert np.array_equal(np.bincount(sources, minlength=len(weights)), mixture.shares)
    assert len(set(sources[:20])) > 1 or max(weights) > 5 * min(weights)  # they are not one behind the other
    windows, _ = mixture.batch(indices.start, CYCLE)
    assert np.array_equal(windows[:, 0].numpy() // 10_000, sources)
    again = Mixture(texts, weights, 8, seed)
    for text, samples in enumerate(again.texts):
        first = cycle * int(again.shares[text])
        alone = {int(samples.window(index)[0]) for index in range(first, first + int(again.shares[text]))}
        assert {int(start) for start in windows[sources == text, 0]} == alone
