"""Baselines are proper distributions, agree with a naive reference, and stand in the order they should."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.evaluation.baselines import KneserNey, compare, uniform_distribution, unigram_distribution

pytestmark = pytest.mark.fast
texts = st.text(alphabet="ab\n", min_size=1, max_size=60).map(str.encode) | st.binary(min_size=1, max_size=60)


class NaiveKneserNey:
    """Chen and Goodman's equations written with dictionaries."""

    def __init__(self, train, order):
        self.order = order
        padded = b"\n" * (order - 1) + train
        counts = Counter(padded[i : i + order] for i in range(len(padded) - order + 1))
        self.levels = [counts]
        for _ in range(order - 1):
            counts = Counter(gram[1:] for gram in counts)
            self.levels.insert(0, counts)
        self.discounts = [self.discount(counts) for counts in self.levels]

    @staticmethod
    def discount(counts):
        n = [sum(count == size for count in counts.values()) for size in range(5)]
        if 0 in n[1:4]:
            return [0, 0.5, 1.0, 1.5]
        y = n[1] / (n[1] + 2 * n[2])
        raw = [size - (size + 1) * y * n[size + 1] / n[size] for size in (1, 2, 3)]
        return [0, *(min(max(value, 0.1), top) for value, top in zip(raw, (0.9, 1.9, 2.9), strict=True))]

    def probability(self, context, byte, length=None):
        length = self.order if length is None else length
        if length == 0:
            return 1 / 256
        context = context[len(context) - length + 1 :]
        shorter = self.probability(context, byte, length - 1)
        discount = self.discounts[length - 1]
        here = {gram: count for gram, count in self.levels[length - 1].items() if gram[:-1] == context}
        if not here:
            return shorter
        total = sum(here.values())
        kept_back = sum(discount[min(count, 3)] for count in here.values()) / total
        count = here.get(context + bytes([byte]), 0)
        return max(count - discount[min(count, 3)], 0) / total + kept_back * shorter


@given(texts, st.integers(1, 5), st.binary(min_size=1, max_size=12))
def test_agrees_with_a_naive_reference(train, order, text):
    model, naive = KneserNey(train, order), NaiveKneserNey(train, order)
    padded = b"\n" * (order - 1) + text
    expected = [naive.probability(padded[i : i + order - 1], text[i]) for i in range(len(text))]
    np.testing.assert_allclose(model.probabilities(text), expected, rtol=1e-9)


@given(texts, st.integers(1, 8), st.binary(max_size=10))
def test_every_context_has_a_distribution(train, order, context):
    distribution = KneserNey(train, order).distribution(context)
    assert distribution.min() > 0 and distribution.sum() == pytest.approx(1)


@given(texts, st.binary(min_size=1, max_size=10))
def test_distribution_and_probability_are_one_model(train, text):
    model = KneserNey(train)
    assert model.distribution(text[:-1])[text[-1]] == pytest.approx(model.probabilities(text)[-1])


@given(texts)
def test_the_simplest_sum_to_one(train):
    for distribution in (uniform_distribution(train), unigram_distribution(train)):
        assert distribution.shape == (256,) and distribution.min() > 0
        assert distribution.sum() == pytest.approx(1)


def test_context_helps_on_text(tmp_path, shared_data):
    text = (shared_data / "tinyshakespeare.txt").read_bytes()
    (tmp_path / "train.txt").write_bytes(text[:200_000])
    (tmp_path / "test.txt").write_bytes(text[-20_000:])
    rows = {row.name: row.bits_per_byte for row in compare(tmp_path)}
    assert rows["5-gram"] < rows["unigram"] < rows["uniform"] < 8
    assert rows["xz (after train)"] < rows["xz (test alone)"]
    assert rows["5-gram"] < 3


def test_orders_that_do_not_fit_are_refused():
    for order, text in ((0, b"x"), (9, b"x"), (5, b"")):
        with pytest.raises(ValueError, match="order must be"):
            KneserNey(text, order)


def test_counting_is_of_all_context_lengths():
    seen = defaultdict(float)
    model = KneserNey(b"the cat sat on the mat. " * 50)
    for context in (b"", b"t", b"th", b"xxth"):
        seen[context] = model.distribution(context)[ord("e")]
    assert seen[b"th"] > 0.5 and seen[b"xxth"] > seen[b""]
