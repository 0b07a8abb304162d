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


def test_gradients_that_stay_long_while_losses_are_as_before_are_no_reason_to_go_back():
    judge = settled()
    assert [judge.judge(2.0, 2.5) for _ in range(4)] == ["spike", "spike", "", ""]
    assert not judge.suspicion and judge.skipped == 2
    assert judge.judge(2.0, 2.6) == "spike"  # longer than any that was taken: it may be the batch again


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (2.0, math.inf), (3.0, 1.0), (3.0, 2.5)])
def test_a_long_gradient_is_taken_after_two_others_alone(bad):
    """Not after losses that are too high, or what is not finite: three of all these together call for a rewind."""
    judge = settled()
    judge.judge(2.0, 2.5)
    judge.judge(*bad)
    assert judge.judge(2.0, 2.5) == "spike" and judge.suspicion == "3 bad steps in a row"


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


STEPS = st.tuples(st.sampled_from([2.0, 2.1, 9.0, math.nan]), st.sampled_from([1.0, 1.1, 3.0, 4.0, math.inf]))


@given(st.lists(STEPS, max_size=200), st.integers(0, 200))
def test_a_judge_that_went_through_a_checkpoint_judges_the_same(steps, cut):
    straight, resumed = settled(), settled()
    for index, (loss, norm) in enumerate(steps):
        if index == cut:
            resumed = Stability.from_state_dict(resumed.state_dict())
        assert straight.judge(loss, norm) == resumed.judge(loss, norm)
        assert straight.suspicion == resumed.suspicion
