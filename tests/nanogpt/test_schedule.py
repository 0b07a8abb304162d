"""Learning-rate schedules: their corners, their bounds, and the clock that bends them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.config import TrainingConfig
from nanogpt.training.update.schedule import (
    CoolDown,
    cool_down_for_clock,
    factor_at,
    planned_cool_down,
)

pytestmark = pytest.mark.fast


def config(**values) -> TrainingConfig:
    return TrainingConfig(**{"max_iters": 100, "warmup_iters": 10, "decay_fraction": 0.6, **values})


def test_warm_up_rises_in_equal_parts_to_the_peak():
    assert [factor_at(step, config()) for step in range(10)] == pytest.approx([0.1 * (n + 1) for n in range(10)])


def test_wsd_is_constant_until_its_cool_down_and_then_straight():
    shape = config(min_lr_ratio=0.0)
    assert planned_cool_down(shape) == CoolDown(40, 100)
    assert factor_at(40, shape) == 1.0
    assert factor_at(70, shape) == pytest.approx(0.5)
    assert factor_at(99, shape) == pytest.approx(1 / 60)


def test_cosine_is_half_way_down_in_the_middle():
    shape = config(schedule="cosine", min_lr_ratio=0.2)
    assert factor_at(10, shape) == pytest.approx(1.0)
    assert factor_at(55, shape) == pytest.approx(0.6)
    assert factor_at(100, shape) == pytest.approx(0.2)


@given(
    schedule=st.sampled_from(["wsd", "cosine", "constant"]), max_iters=st.integers(2, 5000),
    warmup_share=st.floats(0, 0.99), decay=st.floats(0, 1), floor=st.floats(0, 1), place=st.floats(0, 1.2),
)  # fmt: skip
def test_never_outside_zero_and_the_peak_nor_below_the_floor_after_warm_up(
    schedule, max_iters, warmup_share, decay, floor, place
):
    warmup = int(max_iters * warmup_share)
    shape = TrainingConfig(
        schedule=schedule, max_iters=max_iters, warmup_iters=warmup, decay_fraction=decay, min_lr_ratio=floor
    )
    step = int(place * max_iters)
    factor = factor_at(step, shape)
    assert 0 <= factor <= 1 + 1e-9 and (factor > 0 or floor < 1e-12)  # 1 + (floor - 1) rounds
    assert step < warmup or factor >= floor - 1e-9


def test_the_clock_leaves_a_run_alone_that_has_time_enough():
    assert cool_down_for_clock(20, 1000.0, 1.0, config(), None) is None
    assert cool_down_for_clock(20, 1e308, 1e-3, config(), None) is None


def test_the_clock_begins_the_cool_down_when_the_rest_is_its_share():
    shape = config(max_iters=1000)
    assert cool_down_for_clock(20, 100.0, 1.0, shape, None) is None  # 100 of 120 steps are more than 60 %
    assert cool_down_for_clock(40, 59.0, 1.0, shape, None) == CoolDown(40, 99)


def test_a_cool_down_bends_without_a_jump_when_the_speed_changes():
    shape = config(max_iters=1000, min_lr_ratio=0.0)
    before = CoolDown(40, 100)
    after = cool_down_for_clock(70, 15.0, 1.0, shape, before)
    assert after.end == 85
    assert factor_at(70, shape, after) == pytest.approx(factor_at(70, shape, before))
    assert factor_at(85, shape, after) == 0.0


@settings(max_examples=50)
@given(pace=st.lists(st.floats(0.5, 2.0), min_size=1, max_size=50), budget=st.floats(60, 200))
def test_whatever_the_speed_does_the_run_ends_cool_and_in_time(pace, budget):
    shape = config(max_iters=10_000, warmup_iters=5, min_lr_ratio=0.05)
    step, spent, cool_down = 0, 0.0, None
    while spent < budget and not (cool_down and step >= cool_down.end):
        if step:
            cool_down = cool_down_for_clock(step, budget - spent, spent / step, shape, cool_down)
            if cool_down and step >= cool_down.end:
                break
        spent += pace[step % len(pace)]
        step += 1
    assert spent <= budget + 2.0
    assert factor_at(step, shape, cool_down) < 0.25
