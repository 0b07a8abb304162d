"""Noise in the inputs: of the share that was asked for, a function of seed and index, and never in the targets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.data.augmentation import SPAN, Augmentation
from nanogpt.data.data_loader import Samples

pytestmark = pytest.mark.fast
END = 7


@given(st.integers(0, 2**32), st.integers(0, 10**12), st.sampled_from([0.0, 0.1, 0.9]), st.sampled_from([0.0, 0.5]))
@settings(max_examples=30, deadline=None)
def test_noise_is_a_function_of_seed_and_index_and_leaves_the_ends_of_documents(seed, index, dropout, spans):
    text = np.random.default_rng(0).integers(20, size=200)
    noisy, again, other = text.copy(), text.copy(), text.copy()
    augmentation = Augmentation(dropout, spans, 20, seed, END)
    augmentation.apply(noisy, index)
    Augmentation(dropout, spans, 20, seed, END).apply(again, index)
    augmentation.apply(other, index + 1)
    assert np.array_equal(noisy, again) and noisy.min() >= 0 and noisy.max() < 20
    assert np.array_equal(noisy == END, text == END)
    assert np.array_equal(noisy, other) == (dropout == spans == 0)


@pytest.mark.parametrize(("dropout", "spans", "share", "run"), [(0.1, 0.0, 0.1, 1 / 0.9), (0.0, 0.3, 0.3, SPAN)])
def test_the_share_and_the_length_of_spans_are_what_was_asked_for(dropout, spans, share, run):
    rows = np.zeros((2000, 60), np.int64)
    for index, row in enumerate(rows):
        Augmentation(dropout, spans, 10**9, 1).apply(row, index)  # a drawn token is the old one once in 10**9
    replaced = rows != 0
    by_place = replaced.mean(axis=0)
    assert abs(replaced.mean() - share) < 0.01 and np.abs(by_place - share).max() < 5 * (share / 2000) ** 0.5
    begins = (replaced[:, 1:] & ~replaced[:, :-1]).sum()
    assert replaced[:, 1:].sum() / begins == pytest.approx(run, rel=0.12)  # some are cut off at an end of the row


def test_targets_are_those_of_the_text():
    plain, noisy = (Samples(np.arange(1000, dtype=np.uint16), 16, 3) for _ in range(2))
    noisy.augmentation = Augmentation(0.3, 0.3, 1000, 3)
    assert torch.equal(plain.batch(5, 8)[1], noisy.batch(5, 8)[1])
    changed = (plain.batch(5, 8)[0] != noisy.batch(5, 8)[0]).float().mean()
    assert changed == pytest.approx(1 - 0.7 * 0.7, abs=0.15)
    assert torch.equal(noisy.batch(7, 1)[0][0], noisy.batch(5, 8)[0][2])
