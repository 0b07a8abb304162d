"""A training that took much longer or shorter than its plan is news once."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.ledger.facts import Trained
from flows.planning.missed_paces import FASTER, SLOWER, MissedPaces, slowdown
from nanogpt import durable
from tests.flows.parts import outcome, plan

pytestmark = pytest.mark.fast
[PLANNED] = plan("micro").ladder
PLANNED = replace(PLANNED, tokens=1_000_000, seconds=100.0)


def trained(seconds: float, tokens: int = 1_000_000, sha256: str = "a" * 64) -> Trained:
    of_run = {"folder": "", "predicted_seconds": 1.0, "expected_bits_per_byte": 2.0, "remedies": []}
    return Trained(**vars(outcome(seconds=seconds, tokens=tokens, sha256=sha256)), **of_run)


@given(st.floats(0.01, 1e6), st.integers(1, 10**9))
def test_it_is_slow_by_the_seconds_for_a_token(seconds, tokens):
    """One that the clock has ended early took its planned seconds, for fewer tokens."""
    assert slowdown(PLANNED, trained(seconds, tokens)) == pytest.approx(seconds / tokens * 10_000)


@pytest.mark.parametrize("planned, done", [(PLANNED, trained(50.0, tokens=0)),
                                           (replace(PLANNED, seconds=0.0), trained(5.0))])  # fmt: skip
def test_what_cannot_be_compared_is_as_planned(planned, done):
    assert slowdown(planned, done) == 1.0


@given(st.floats(0.01, 100.0))
def test_only_what_is_much_slower_or_faster_is_news(tmp_path_factory, times):
    notes = MissedPaces(tmp_path_factory.mktemp("state"))
    is_off = not FASTER <= slowdown(PLANNED, trained(100.0 * times)) <= SLOWER
    assert notes.note(PLANNED, trained(100.0 * times)) is is_off
    assert notes.settings() == ({"slow": {"micro": "a" * 64}} if is_off else {})
    assert math.isclose(SLOWER, 1.3) and math.isclose(FASTER, 0.6)


def test_the_same_training_is_news_once_and_another_one_of_the_same_model_again(tmp_path):
    """Also to the next start, which finds the model trained."""
    assert MissedPaces(tmp_path).settings() == {}
    assert MissedPaces(tmp_path).note(PLANNED, trained(200.0))
    before = MissedPaces(tmp_path).settings()
    for _ in range(2):
        assert not MissedPaces(tmp_path).note(PLANNED, trained(200.0))
    assert MissedPaces(tmp_path).settings() == before
    assert MissedPaces(tmp_path).note(PLANNED, trained(900.0, sha256="b" * 64))
    assert MissedPaces(tmp_path).note(replace(PLANNED, name="tiny_model"), trained(900.0))
    assert MissedPaces(tmp_path).settings() == {"slow": {"micro": "b" * 64, "tiny_model": "a" * 64}}


@pytest.mark.parametrize("damage", ["", "{half", "[]", '"text"'])
def test_a_damaged_note_is_none(tmp_path, damage):
    durable.write_text(tmp_path / "slow.json", damage)
    assert MissedPaces(tmp_path).settings() == {}
    assert MissedPaces(tmp_path).note(PLANNED, trained(200.0)) and MissedPaces(tmp_path).settings()
