"""What a training is expected to reach, and how long it takes with all that is done between its steps."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.planning import forecast
from flows.planning.forecast import Corpus, Speed
from tests.flows.planning.models import PLAY, model, speed

LAWS = st.sampled_from([forecast.PLAYS, forecast.WEB, forecast.STORIES])
COUNTS = st.integers(10**3, 10**9)


@given(LAWS, st.integers(10**4, 10**9), COUNTS, COUNTS, st.floats(1.0, 100.0))
def test_larger_models_more_tokens_and_more_text_are_expected_to_be_better(law, parameters, tokens, text, times):
    expected = law.bits_per_byte(parameters, tokens, text)
    assert expected > law.bits * law.e
    assert law.bits_per_byte(parameters * times, tokens, text) <= expected + 1e-12
    assert law.bits_per_byte(parameters, tokens * times, text) <= expected + 1e-12
    assert law.bits_per_byte(parameters, tokens, text * times) <= expected + 1e-12


def test_the_law_of_web_pages_is_near_gpt_2s_trainings():
    """3.28 nats a token of GPT-2's, about 4.5 bytes, on FineWeb: by Muon from 2.67 B tokens."""
    pages = Corpus(10**11, 10**11, 0, 0.05, 0.05, 4.5, most_held_out=4 * 10**6, law=forecast.WEB)
    assert pages.bits_per_byte(124_000_000, 2_670_000_000, 524_288) == pytest.approx(3.28 / math.log(2) / 4.5, rel=0.07)


def test_of_a_trainings_first_steps_little_is_learned():
    play = dataclasses.replace(forecast.PLAYS, first_steps=80.0)
    assert play.learned(80 * 1536, 1536) == pytest.approx(40 * 1536)
    assert play.learned(8000 * 1536, 1536) == pytest.approx(8000 * 1536, rel=0.01)
    assert forecast.WEB.learned(5 * 1536, 1536) == 5 * 1536


def test_so_much_and_no_more_is_held_out_of_a_large_text():
    pages = Corpus(10**10, 10**10, 0, 0.05, 0.05, 4.0, most_held_out=4 * 10**6)
    assert (pages.val_tokens, pages.train_tokens) == (10**6, (10**10 - 8 * 10**6) // 4)


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
    tokens = PLAY.val_tokens / config.tokens_per_step
    assert forecast.evaluation_seconds(config, speed(), PLAY) == pytest.approx(tokens * 0.05 / 3)
