"""When float16's loss scale moves, and when an overflow is more than that."""

import math

import pytest
import torch

from nanogpt.training.update import loss_scale
from nanogpt.training.update.loss_scale import FIRST, LEAST, STEPS_UNTIL_DOUBLED, LossScale

pytestmark = pytest.mark.fast


def test_an_overflow_halves_it_and_skips_the_step():
    scale = LossScale()
    assert [scale.overflows(norm) for norm in (1.0, math.inf, math.nan, 1.0)] == [False, True, True, False]
    assert scale == LossScale(FIRST / 4, good_steps=1)


def test_many_good_steps_double_it_and_an_overflow_counts_them_anew():
    scale = LossScale()
    for _ in range(STEPS_UNTIL_DOUBLED - 1):
        scale.overflows(1.0)
    scale.overflows(math.inf)
    for _ in range(STEPS_UNTIL_DOUBLED - 1):
        scale.overflows(1.0)
    assert scale.factor == FIRST / 2
    scale.overflows(1.0)
    assert scale == LossScale(FIRST, 0)


def test_at_its_least_it_is_not_to_blame():
    scale = LossScale(LEAST)
    assert not scale.overflows(math.inf) and scale.factor == LEAST
    assert LossScale(2 * LEAST).overflows(math.inf)


def test_it_moves_as_torchs_scaler_does(monkeypatch):
    monkeypatch.setattr(loss_scale, "STEPS_UNTIL_DOUBLED", 5)
    theirs = torch.amp.GradScaler("cpu", init_scale=FIRST, growth_interval=5)
    mine, parameter = LossScale(), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    theirs.scale(torch.ones(()))  # it makes its state at the first use
    for step in range(60):
        bad = step % 13 == 4 or step in (30, 31)
        parameter.grad = torch.full((2,), math.inf if bad else 1.0)
        theirs.step(optimizer)
        theirs.update()
        mine.overflows(math.inf if bad else 1.0)
        assert mine.factor == theirs.get_scale()
