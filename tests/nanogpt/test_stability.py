"""Which steps are skipped, and when the weights themselves are suspect."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.training.stability import BAD_IN_A_ROW, WINDOW, Stability

pytestmark = pytest.mark.fast


def settled(spread: float = 0.05) -> Stability:
    """A judge with a full window around loss 2, gradient norm 1."""
    judge = Stability()
    for index in range(WINDOW):
        assert judge.judge(2.0 + spread * (-1) ** index, 1.0 + spread * (-1) ** index) == ""
    return judge


@pytest.mark.parametrize("loss, norm", [(math.nan, 1.0), (2.0, math.nan), (math.inf, 1.0), (2.0, math.inf)])
def test_what_is_not_finite_is_never_taken(loss, norm):
    assert Stability().judge(loss, norm) == "non-finite"
    assert settled().judge(loss, norm) == "non-finite"


def test_a_spike_of_either_is_skipped_and_an_ordinary_step_is_not():
    assert settled().judge(2.0 + 7 * 0.05, 1.0) == "spike"
    assert settled().judge(2.0, 1.0 + 7 * 0.05) == "spike"
    assert settled().judge(2.0 + 5 * 0.05, 1.0 + 5 * 0.05) == ""
    assert settled().judge(0.1, 0.1) == ""  # less is no spike


def test_without_a_window_or_on_a_plateau_nothing_is_a_spike():
    assert Stability().judge(50.0, 50.0) == ""
    assert settled(spread=0.0).judge(2.1, 1.05) == ""


def test_three_in_a_row_and_no_fewer_call_for_a_rewind():
    judge = settled()
    for bad in range(1, BAD_IN_A_ROW + 1):
        judge.judge(math.nan, 1.0)
        assert judge.must_rewind == (bad == BAD_IN_A_ROW)
    judge.judge(2.0, 1.0)
    assert not judge.must_rewind and judge.skipped == BAD_IN_A_ROW


@given(st.lists(st.sampled_from([2.0, 2.1, 9.0, math.nan]), max_size=200), st.integers(0, 200))
def test_a_judge_that_went_through_a_checkpoint_judges_the_same(losses, cut):
    straight, resumed = Stability(), Stability()
    for index, loss in enumerate(losses):
        if index == cut:
            resumed = Stability.from_state_dict(resumed.state_dict())
        assert straight.judge(loss, 1.0) == resumed.judge(loss, 1.0)
