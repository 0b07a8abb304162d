"""A training on a machine that turns busy: what is said of it, and when a smaller model had better have its time."""

from dataclasses import replace

import pytest

from flows.supervision.pace_watch import LEAST_WINDOW, SYMPTOM, PaceWatch
from nanogpt.config import TrainingConfig
from nanogpt.results.training import Heartbeat
from tests.flows.parts import Parts, plan

pytestmark = pytest.mark.fast
STEPS = 1000
PLANNED = replace(plan("micro").ladder[0], batch_size=12, gradient_accumulation=1, block_size=64, seconds=100.0,
                  tokens=STEPS * 12 * 64)  # fmt: skip
TRAINING = TrainingConfig(warmup_iters=20, max_iters=STEPS)  # 200 steps are enough


def train(parts: Parts, seconds_per_step: list[tuple[float, float]], has_smaller: bool = True, **other) -> list[float]:
    """A training of 100 s whose steps take so long from each of these seconds on; when it had better be given up."""
    now = 0.0
    given = {"planned": PLANNED, "seconds": 100.0, **other}
    watch = PaceWatch("training.micro", TRAINING, journal=parts.journal, has_smaller=has_smaller, clock=lambda: now,
                      **given)  # fmt: skip
    step, reasons = 0, []
    while now < 100.0:
        now += next(each for since, each in reversed(seconds_per_step) if now >= since)
        step += 1
        watch.note(Heartbeat(step, STEPS, "training", seconds=now))
        if watch.reason_to_give_up():
            reasons.append(now)
    return reasons


@pytest.fixture
def parts(tmp_path) -> Parts:
    return Parts(tmp_path)


def said(parts: Parts) -> list[str]:
    parts.journal.log("the end")
    return [line for line in parts.log.splitlines() if "slower" in line]


@pytest.mark.parametrize("pace", [[(0.0, 0.1)], [(0.0, 0.11)], [(0.0, 0.1), (50.0, 0.12)], [(0.0, 0.05)]])
def test_one_that_is_about_as_planned_is_left_alone(parts, pace):
    assert train(parts, pace) == [] and said(parts) == []


def test_fewer_steps_that_are_still_worth_having_are_said_once(parts):
    assert train(parts, [(0.0, 0.1), (30.0, 0.3)]) == []
    [line] = said(parts)
    assert "steps in 1 min 40 s instead of 1,000" in line and "worth having" not in line
    assert parts.journal.remedies == []


def test_too_few_to_be_worth_having_are_a_reason_to_give_the_time_to_a_smaller_model_while_there_is_some(parts):
    reasons = train(parts, [(0.0, 0.1), (5.0, 2.0)])
    assert LEAST_WINDOW <= reasons[0] < 50.0 and reasons[-1] <= 70.0


def test_where_nothing_smaller_can_have_it_the_report_says_so(parts):
    assert train(parts, [(0.0, 2.0)], has_smaller=False) == []
    [row] = parts.journal.remedies
    assert (row.step, row.symptom, row.remedy) == ("training.micro", SYMPTOM, "trained on until its time is over")
    assert "about 50 steps" in row.evidence and "200 make a model worth having" in row.evidence


def test_a_burst_that_is_soon_over_is_no_reason(parts):
    assert train(parts, [(0.0, 0.1), (20.0, 2.0), (30.0, 0.1)]) == [] and parts.journal.remedies == []


def test_a_training_without_a_clock_has_its_steps_whatever_they_take(parts):
    assert train(parts, [(0.0, 2.0)], seconds=None) == [] and said(parts) == []
