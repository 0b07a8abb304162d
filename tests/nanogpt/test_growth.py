"""How much a step sees: windows that get longer by the step, a batch that grows when the loss no longer falls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.config import TrainingConfig
from nanogpt.training.update.growth import LEAST_FALL, STEPS_TO_COMPARE, BatchGrowth, curriculum_steps, window_at

pytestmark = pytest.mark.fast


def test_windows_double_in_equal_parts():
    assert [window_at(step, 16, 128, 30) for step in (0, 9, 10, 19, 20, 29, 30, 1000)] == [
        16, 16, 32, 32, 64, 64, 128, 128,
    ]  # fmt: skip
    assert window_at(0, None, 128, 0) == window_at(0, 128, 128, 30) == window_at(0, 16, 128, 0) == 128


@given(first=st.sampled_from([1, 3, 16]), doublings=st.integers(0, 6), steps=st.integers(0, 500))
def test_windows_never_shrink_and_divide_the_last(first, doublings, steps):
    last = first << doublings
    windows = [window_at(step, first, last, steps) for step in range(steps + 2)]
    assert windows == sorted(windows) and windows[-1] == last
    assert all(last % window == 0 for window in windows)
    assert steps < 2 * doublings or set(windows) == {first << n for n in range(doublings + 1)}


def test_a_curriculum_takes_its_share_of_the_steps():
    config = TrainingConfig(max_iters=1000, initial_block_size=16, curriculum_fraction=0.3)
    assert curriculum_steps(config) == 300
    assert curriculum_steps(TrainingConfig(max_iters=1000)) == 0


def feed(growth: BatchGrowth, loss: float) -> bool:
    """A whole number of steps to compare, all with this loss; whether the batch doubled at their end."""
    doubled = [growth.note(loss) for _ in range(STEPS_TO_COMPARE)]
    assert not any(doubled[:-1])
    return doubled[-1]


def test_the_batch_doubles_when_the_loss_no_longer_falls_and_not_before():
    growth = BatchGrowth(size=4, whole=16)
    falling = [3.0 * (1 - 1.01 * LEAST_FALL) ** n for n in range(20)]
    assert not any(feed(growth, loss) for loss in falling)
    assert feed(growth, falling[-1] * (1 - 0.9 * LEAST_FALL)) and growth.size == 8
    assert not feed(growth, 9.0)  # the first after it has nothing to be compared with
    assert feed(growth, 9.5) and growth.size == 16
    assert not feed(growth, 9.5) and not feed(growth, 9.5) and growth.size == 16


def test_without_room_nothing_is_remembered():
    growth = BatchGrowth(size=8, whole=8)
    assert not growth.note(1.0) and growth == BatchGrowth(8, 8)
