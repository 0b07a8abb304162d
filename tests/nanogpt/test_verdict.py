"""Not learned, undertrained, learned: whatever the figures are, a model that predicts nothing is not praised."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.evaluation import baselines
from nanogpt.evaluation.verdict import FIVE_GRAM, UNIGRAM, compare

pytestmark = pytest.mark.fast
SIMPLE = {"uniform": 6.044, UNIGRAM: 4.8, FIVE_GRAM: 2.4, "xz": 3.4}
figures = st.floats(0, 100) | st.sampled_from([math.nan, math.inf])


@pytest.mark.parametrize("bits, level, words", [
    (6.019, "not learned", "tiny has not learned: 6.019 bits per byte on text that it never saw; counting how often "
                           "each letter occurs gives 4.800"),
    (4.8, "not learned", "tiny has not learned: 4.800"),
    (math.nan, "not learned", "tiny has not learned: nan bits per byte"),
    (math.inf, "not learned", "tiny has not learned: inf bits per byte"),
    (4.79, "undertrained", "tiny is undertrained: 4.790 bits per byte on text that it never saw; counting which letter "
                           "follows which four others (a 5-gram) gives 2.400"),
    (2.4, "undertrained", "tiny is undertrained: 2.400"),
    (2.39, "learned", "tiny has learned: 2.390 bits per byte on text that it never saw; counting which letter follows "
                      "which four others (a 5-gram) gives 2.400"),
])  # fmt: skip
def test_a_model_is_compared_with_what_needs_no_training(bits, level, words):
    found = compare("tiny", bits, SIMPLE)
    assert (found.level, found.model, found.has_learned) == (level, "tiny", level != "not learned")
    assert found.headline.startswith(words)


@given(figures, figures, figures)
def test_no_figure_that_is_not_better_counts_as_learned(bits, unigram, five_gram):
    found = compare("tiny", bits, {UNIGRAM: unigram, FIVE_GRAM: five_gram})
    assert found.has_learned == (bits < unigram)
    assert found.level != "learned" or not bits >= five_gram
    assert "\n" not in found.headline and not found.headline.endswith(".")


@pytest.mark.parametrize("missing", [UNIGRAM, FIVE_GRAM])
def test_without_what_it_is_compared_with_there_is_no_verdict(missing):
    assert compare("tiny", 1.0, {name: bits for name, bits in SIMPLE.items() if name != missing}) is None


def test_the_names_are_those_of_the_baselines(tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.txt").write_text("the sheep and the goats went over the hill.\n" * 20)
    assert {UNIGRAM, FIVE_GRAM} <= {row.name for row in baselines.compare(tmp_path)}
