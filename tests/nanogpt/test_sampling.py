"""Which tokens can be drawn, and how often."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.faults import UserError
from nanogpt.inference.sampling import NOT_A_TOKEN, check_options, kept_k, nucleus, sample

pytestmark = pytest.mark.fast
logit_lists = st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=20)


def draws(logits, count=2000, **options):
    generator = torch.Generator().manual_seed(0)
    return [int(sample(torch.tensor([logits]), [generator], **options)) for _ in range(count)]


@given(logits=logit_lists)
def test_temperature_zero_takes_the_likeliest(logits):
    token = int(sample(torch.tensor([logits]), [torch.Generator()], temperature=0))
    assert logits[token] == max(logits)


@given(rows=st.integers(1, 4), size=st.integers(2, 70), seed=st.integers(0, 99), top_k=st.none() | st.integers(1, 9))
def test_a_row_draws_what_multinomial_draws_alone(rows, size, seed, top_k):
    logits = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 2
    generators = [torch.Generator().manual_seed(seed + row) for row in range(rows)]
    drawn = sample(logits, generators, temperature=0.7, top_k=top_k, top_p=0.9)
    for row in range(rows):
        alone = nucleus(kept_k(logits[row] / 0.7, top_k).softmax(-1), 0.9)
        assert drawn[row] == torch.multinomial(alone, 1, generator=torch.Generator().manual_seed(seed + row))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_row_that_is_not_finite_has_no_token(bad, temperature):
    logits = torch.tensor([[0.0, bad, 1.0], [0.0, -math.inf, 9.0]])
    drawn = sample(logits, [torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)], temperature)
    assert drawn[0] == NOT_A_TOKEN and drawn[1] != NOT_A_TOKEN


@pytest.mark.parametrize("temperature", [1e-5, 1e-7, 1e-45, 5e-324])
def test_next_to_zero_is_zero(temperature):
    assert set(draws([1.0, 80.0, -3.0], count=5, temperature=temperature)) == {1}


@settings(max_examples=30)
@given(logits=logit_lists, top_k=st.integers(1, 25))
def test_top_k_draws_no_other(logits, top_k):
    kept = sorted(logits, reverse=True)[:top_k]
    assert all(logits[token] >= kept[-1] for token in draws(logits, count=20, temperature=1.0, top_k=top_k))


@settings(max_examples=50)
@given(logits=logit_lists, top_p=st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_set_that_reaches_it(logits, top_p):
    probabilities = torch.tensor(logits, dtype=torch.float64).softmax(0)
    kept = nucleus(probabilities, top_p)
    inside = kept[kept > 0]
    assert inside.sum() >= top_p - 1e-9
    assert inside.sum() - inside.min() < top_p + 1e-9
    assert (probabilities[kept == 0] <= inside.min()).all()


def test_frequencies_follow_the_temperature():
    share = draws([math.log(3), 0.0], temperature=1.0).count(0) / 2000
    assert abs(share - 3 / 4) < 0.05
    share = draws([math.log(3), 0.0], temperature=0.5).count(0) / 2000
    assert abs(share - 9 / 10) < 0.05


@pytest.mark.parametrize(
    "options, key",
    [((-0.1, None, None), "temperature"), ((1.0, 0, None), "top_k"), ((1.0, None, 0.0), "top_p"),
     ((float("nan"), None, None), "temperature"), ((1.0, None, 1.5), "top_p"), ((1.0, None, None, -1), "seed"),
     ((1.0, None, None, 2**63), "seed")],
)  # fmt: skip
def test_an_option_out_of_range_is_named(options, key):
    with pytest.raises(UserError, match=key):
        check_options(*options)
