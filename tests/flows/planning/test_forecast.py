"""What a training is expected to reach, and how long it takes with all that is done between its steps."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.planning import forecast
from flows.planning.forecast import Speed
from nanogpt.measure.sizes import tokens_per_step
from tests.flows.planning.models import PLAY, model, speed


@given(st.integers(10**4, 10**9), st.integers(10**3, 10**9), st.integers(10**3, 10**9), st.floats(1.0, 100.0))
def test_larger_models_more_tokens_and_more_text_are_expected_to_be_better(parameters, tokens, text, times):
    expected = forecast.expected_bits_per_byte(parameters, tokens, text)
    assert expected > forecast.E
    assert forecast.expected_bits_per_byte(int(parameters * times), tokens, text) <= expected + 1e-12
    assert forecast.expected_bits_per_byte(parameters, int(tokens * times), text) <= expected + 1e-12
    assert forecast.expected_bits_per_byte(parameters, tokens, int(text * times)) <= expected + 1e-12


def between(speed: Speed, **training) -> float:
    return forecast.seconds_between_steps(model(**training), speed, PLAY)


def test_each_evaluation_sample_and_checkpoint_is_counted():
    once = {"max_iters": 100, "eval_interval": 100, "sample_interval": 0, "checkpoint_interval": 100}
    token = 1e-5
    measured = dataclasses.replace(speed(), evaluation_seconds_per_token=token, sample_seconds=0.5, save_seconds=0.2)
    evaluation = PLAY.val_tokens * token + 1.5 * 0.2
    assert between(measured, **once) == pytest.approx(evaluation + 3 * 0.2)  # start, end, before the cool-down
    assert between(measured, **once | {"eval_interval": 30}) == pytest.approx(4 * evaluation + 3 * 0.2)
    assert between(measured, **once | {"checkpoint_interval": 10}) == pytest.approx(evaluation + 12 * 0.2)
    sampled = between(measured, **once | {"sample_interval": 50, "sample_temperatures": [0.5, 1.0]})
    assert sampled == pytest.approx(evaluation + 3 * 0.2 + 2 * 2 * 0.5)
    averaged = between(measured, **once | {"weight_average": 0.99})
    assert averaged - between(measured, **once) == pytest.approx(PLAY.val_tokens * token)


def test_an_evaluation_that_was_not_measured_counts_as_a_third_of_the_steps_work():
    config = model(max_iters=1, warmup_iters=0, eval_interval=1, sample_interval=0)
    tokens = PLAY.val_tokens / tokens_per_step(config)
    assert forecast.evaluation_seconds(config, speed(), PLAY) == pytest.approx(tokens * 0.05 / 3)
