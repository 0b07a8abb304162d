"""Which steps are skipped, and when the weights themselves are suspect."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.training.update.stability import BAD_IN_A_ROW, WINDOW, Stability

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
        assert bool(judge.suspicion) == (bad == BAD_IN_A_ROW)
        assert judge.steps_since_healthy() == bad
    judge.judge(2.0, 1.0)
    assert not judge.suspicion and judge.skipped == BAD_IN_A_ROW


def test_more_than_five_bad_steps_in_a_hundred_call_for_a_rewind():
    often, seldom = Stability(), Stability()
    for step in range(1, 400):
        bad = step % 17 == 0
        often.judge(math.nan if bad else 2.0, 1.0)
        seldom.judge(math.nan if step % 20 == 0 else 2.0, 1.0)  # five in each hundred
        assert not seldom.suspicion
        if often.suspicion:
            break
    assert step == 6 * 17 and often.suspicion == "6 bad steps among the last 100"
    assert step - often.steps_since_healthy() == 16  # the first bad step was the 17th
    often.forgive()
    assert not often.suspicion and often.skipped == 6


@given(st.lists(st.sampled_from([2.0, 2.1, 9.0, math.nan]), max_size=200), st.integers(0, 200))
def test_a_judge_that_went_through_a_checkpoint_judges_the_same(losses, cut):
    straight, resumed = Stability(), Stability()
    for index, loss in enumerate(losses):
        if index == cut:
            resumed = Stability.from_state_dict(resumed.state_dict())
        assert straight.judge(loss, 1.0) == resumed.judge(loss, 1.0)
        assert straight.suspicion == resumed.suspicion
