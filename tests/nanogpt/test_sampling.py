"""Which tokens can be drawn, and how often."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nanogpt.faults import UserError
from nanogpt.inference.options import Options
from nanogpt.inference.sampling import (
    LARGEST_UNIFORM,
    NOT_A_TOKEN,
    Sampler,
    at_quantiles,
    choose,
    described,
    keep_likeliest,
    keep_nucleus,
    keep_typical,
)
from nanogpt.tokenizers.characters import CharTokenizer

pytestmark = pytest.mark.fast
logit_lists = st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=20)
shares = st.floats(0.01, 0.99)


def rows_of(*rows):
    return np.array(rows, np.float32)


def draws(logits, count=2000, window=(), **options):
    """Tokens of one text whose logits are the same at each step."""
    sampler = Sampler(Options(**{"seed": 0, **options}), window)
    return [choose(rows_of(logits), [sampler])[0] for _ in range(count)]


def kept(logits, keep, *limits):
    """The weights of logits at temperature 1 before and after `keep` of them."""
    logits = np.array(logits, np.float32)
    distances = logits - logits.max()
    weights = np.exp(distances)
    after = weights.copy()
    keep(*([distances] if keep is keep_nucleus else []), after, *limits)
    assert ((after == weights) | (after == 0)).all()
    return weights, after > 0


@given(logits=logit_lists)
def test_temperature_zero_takes_the_likeliest(logits):
    assert logits[draws(logits, count=1, temperature=0)[0]] == max(logits)


@settings(max_examples=30)
@given(
    rows=st.integers(1, 4), size=st.integers(2, 300), seed=st.integers(0, 99), top_k=st.none() | st.integers(1, 9),
    top_p=st.none() | shares, temperature=st.sampled_from([0, 1e-5, 0.7, 1e300]),
)  # fmt: skip
def test_a_row_draws_what_it_draws_alone(rows, size, seed, top_k, top_p, temperature):
    logits = (np.random.default_rng(seed).standard_normal((rows, size)) * 2).astype(np.float32)
    options = [Options(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)] + [
        Options(temperature=0.5 * row, min_p=0.1, seed=seed + row) for row in range(1, rows)
    ]
    together = [Sampler(of_row, ()) for of_row in options]
    alone = [Sampler(of_row, ()) for of_row in options]
    for _ in range(5):
        assert choose(logits, together) == [
            choose(logits[row : row + 1], [sampler])[0] for row, sampler in enumerate(alone)
        ]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_row_that_is_not_finite_has_no_token(bad, temperature):
    logits = rows_of([0.0, 1.0, 2.0], [0.0, bad, 2.0])
    samplers = [Sampler(Options(temperature=temperature, top_p=0.5, seed=0), ()) for _ in range(2)]
    first, second = choose(logits, samplers)
    assert first == 2 and second == NOT_A_TOKEN


@given(logits=logit_lists, top_k=st.integers(1, 25))
def test_top_k_keeps_the_k_largest_and_ties(logits, top_k):
    weights, inside = kept(logits, keep_likeliest, top_k)
    assert (inside == (weights >= np.sort(weights)[::-1][:top_k].min())).all()


def plain_nucleus(weights, top_p):
    """By a full sort: the fewest of the largest that reach top_p, ties in the order of their ids."""
    order = np.argsort(-weights, kind="stable")
    sums = weights[order].cumsum(dtype=np.float64)
    inside = np.zeros(len(weights), bool)
    inside[order[: 1 + np.searchsorted(sums, top_p * sums[-1])]] = True
    return inside, np.abs(sums / sums[-1] - top_p).min() < 1e-12  # rounding decides


@settings(max_examples=100)
@given(logits=logit_lists, top_p=shares)
def test_top_p_keeps_the_smallest_set_that_reaches_it(logits, top_p):
    weights, inside = kept(logits, keep_nucleus, top_p)
    expected, by_rounding = plain_nucleus(weights, top_p)
    assert by_rounding or (inside == expected).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), scale=st.sampled_from([0, 1e-3, 1.0, 5.0, 300.0]), top_p=shares)
def test_top_p_of_a_large_vocabulary_is_that_of_a_full_sort(seed, scale, top_p):
    logits = np.random.default_rng(seed).standard_normal(5000) * scale
    weights, inside = kept(logits, keep_nucleus, top_p)
    expected, by_rounding = plain_nucleus(weights, top_p)
    assert by_rounding or (inside == expected).all()


@settings(max_examples=100)
@given(logits=logit_lists, typical_p=shares)
def test_typical_keeps_what_surprises_as_much_as_expected(logits, typical_p):
    weights, inside = kept(logits, keep_typical, typical_p)
    probabilities = weights / weights.sum(dtype=np.float64)
    off = np.abs(-np.log(probabilities) - (probabilities * -np.log(probabilities)).sum())
    assert off[inside].max() <= off[~inside].min(initial=math.inf)
    assert probabilities[inside].sum() >= typical_p - 1e-9
    edge = probabilities[inside & (off == off[inside].max())].max()
    assert probabilities[inside].sum() - edge < typical_p + 1e-9


@settings(max_examples=100)
@given(logits=logit_lists, min_p=st.floats(0, 1, width=32))
def test_min_p_keeps_what_reaches_that_share_of_the_likeliest(logits, min_p):
    largest = max(logits)
    assert all(
        math.exp(logits[token] - largest) >= min_p - 1e-6
        for token in draws(logits, count=20, temperature=1.0, min_p=min_p)
    )


@settings(max_examples=100)
@given(
    weights=st.lists(st.floats(0, 9, width=32), min_size=1, max_size=30),
    uniform=st.floats(0, 1),
    spread=st.sampled_from([1, 1, 100]),  # zeros between them: a vocabulary that is summed in blocks
)
def test_a_quantile_is_where_the_running_sum_passes_it(weights, uniform, spread):
    spaced = np.zeros((1, len(weights) * spread), np.float32)
    spaced[0, ::spread] = weights
    assume(spaced.any())
    found = int(at_quantiles(spaced, [min(uniform, LARGEST_UNIFORM)])[0])
    sums = spaced[0].cumsum(dtype=np.float64) / spaced[0].sum(dtype=np.float64)
    assert spaced[0, found] > 0
    assert sums[found] >= uniform - 1e-9 and (found == 0 or sums[found - 1] <= uniform + 1e-9)


def test_frequencies_follow_the_temperature():
    share = draws([math.log(3), 0.0], temperature=1.0).count(0) / 2000
    assert abs(share - 3 / 4) < 0.05
    share = draws([math.log(3), 0.0], temperature=0.5).count(0) / 2000
    assert abs(share - 9 / 10) < 0.05
    share = draws([math.log(3), 0.0], temperature=1e300).count(0) / 2000
    assert abs(share - 1 / 2) < 0.05


def test_frequencies_of_many_tokens_are_their_probabilities():
    logits = np.random.default_rng(1).standard_normal(1500).astype(np.float32)  # several blocks
    random, weights = np.random.default_rng(2), np.exp(logits)[None]
    uniforms = random.random(20_000).tolist()
    counts = np.bincount([int(at_quantiles(weights, [uniform])[0]) for uniform in uniforms], minlength=1500)
    expected = 20_000 * np.exp(logits) / np.exp(logits).sum()
    assert ((counts - expected) ** 2 / expected).sum() < 1500 + 5 * math.sqrt(2 * 1500)  # chi-squared


def test_a_token_that_was_seen_is_penalised_and_a_bias_is_added():
    assert draws([2.0, 1.5, -1.0], 1, window=[0, 0], temperature=0, repetition_penalty=1.5) == [1]
    assert draws([-1.0, -1.2, -9.0], 1, window=[0], temperature=0, repetition_penalty=1.5) == [1]
    assert draws([2.0, 1.5, -1.0], 1, temperature=0, logit_bias={2: 3.1}) == [2]
    assert set(draws([2.0, 1.5, -1.0], 200, temperature=1.0, logit_bias={0: -math.inf})) == {1, 2}


@pytest.mark.parametrize("extreme", [5e-324, 1e-39, 1e-30, 1e30, 1e39, 1e308])
@pytest.mark.parametrize("limits", [{}, {"top_p": 0.9}, {"typical_p": 0.9}, {"min_p": 0.1, "top_k": 2}])
def test_a_penalty_and_a_bias_of_any_size_leave_numbers(extreme, limits):
    assert set(draws([2.0, 1.5, -1.0], 50, window=[0], repetition_penalty=extreme, **limits)) <= {0, 1, 2}
    favoured = draws([2.0, 1.5, -1.0], 50, window=[1], repetition_penalty=min(extreme, 1e-30), **limits)
    assert set(favoured) == {1}
    assert set(draws([2.0, 1.5, -1.0], 50, logit_bias={2: max(extreme, 1e30)}, **limits)) == {2}


def test_probabilities_are_those_of_the_model_at_temperature_one():
    tokenizer = CharTokenizer("abc")
    logits = np.log(np.array([0.1, 0.2, 0.6, 0.1], np.float32))
    found = described(1, logits, 2, tokenizer)
    assert (found.id, found.text) == (1, "b") and found.logprob == pytest.approx(math.log(0.2))
    assert [(token.id, token.text) for token in found.alternatives] == [(2, "c"), (1, "b")]
    assert [math.exp(token.logprob) for token in found.alternatives] == pytest.approx([0.6, 0.2])
    assert described(1, logits, 0, tokenizer).alternatives == ()
    assert len(described(1, logits, 99, tokenizer).alternatives) == 4


@pytest.mark.parametrize(
    "options, key",
    [
        (dict(temperature=-0.1), "temperature"), (dict(temperature=math.nan), "temperature"),
        (dict(top_k=0), "top_k"), (dict(top_p=0.0), "top_p"), (dict(top_p=1.5), "top_p"), (dict(min_p=-1), "min_p"),
        (dict(typical_p=0), "typical_p"), (dict(repetition_penalty=0), "repetition_penalty"),
        (dict(logit_bias={5: 1.0}), "logit_bias"), (dict(logit_bias={0: math.nan}), "logit_bias"),
        (dict(logit_bias={0: -math.inf, 1: -math.inf}), "logit_bias"), (dict(stop=["a", ""]), "stop"),
        (dict(seed=-1), "seed"), (dict(seed=2**63), "seed"), (dict(alternatives=-1), "alternatives"),
        (dict(beams=0), "beams"), (dict(length_penalty=math.inf), "length_penalty"),
        (dict(length_penalty=1e5), "length_penalty"), (dict(length_penalty=-1e5), "length_penalty"),
        (dict(max_new_tokens=-1), "max_new_tokens"),
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_named(options, key):
    with pytest.raises(UserError, match=key):
        Options(**options).check(vocab_size=2)
