"""Budgets and phases, as the words of a command line."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.context.command_words import PHASES, SHORTEST_BUDGET, assumed_speed_of, budget_of, seconds_of
from flows.full_run import PHASES as RUN


@given(st.floats(1, 1e6, allow_nan=False).map(lambda number: round(number, 2)), st.sampled_from("smhd"))
def test_a_budget_is_its_number_times_its_unit(number, unit):
    expected = number * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    if expected >= SHORTEST_BUDGET:
        assert seconds_of(f" {number}{unit} ") == pytest.approx(expected)
    else:
        with pytest.raises(ValueError, match="shortest budget"):
            seconds_of(f"{number}{unit}")


def test_a_budget_may_have_several_parts():
    assert seconds_of("3h10m") == seconds_of(" 3h 10m ") == seconds_of("190m") == seconds_of("2h70m") == 11_400
    for wrong in ("3h10", "10 3h", "h3", "3h10m!", "3hh"):
        with pytest.raises(ValueError, match="3h10m"):
            seconds_of(wrong)


@given(st.integers(60, 10**7))
def test_a_budget_that_is_advised_can_be_typed_and_is_hardly_longer(seconds):
    advised = budget_of(seconds)
    assert seconds <= seconds_of(advised) < seconds + (60 if seconds <= 7140 else 660)
    assert not re.match(r"\d{3,}m", advised) or seconds_of(advised) < 7200


@given(st.integers(60, 10**7))
def test_a_plain_number_is_seconds(seconds):
    assert seconds_of(seconds) == seconds_of(str(seconds)) == seconds


@given(st.text() | st.floats() | st.booleans() | st.none() | st.lists(st.integers()))
def test_anything_else_is_refused_in_words_or_a_time(value):
    """Whatever stands there: a number of seconds, or ValueError, never another exception."""
    try:
        assert seconds_of(value) >= SHORTEST_BUDGET
    except ValueError as error:
        assert "found" in str(error)


@pytest.mark.parametrize("speed", ["1:1:" + "9" * 400 + "s", "9" * 400 + ":1:1s", "1:" + "9" * 400 + ":1s", "1:1:100s"])
def test_a_speed_that_no_machine_has_is_refused(speed):
    """A plan would divide by it."""
    with pytest.raises(ValueError, match=r"found '.{1,40}', .* FLOP/s; expected from 1e\+06 to 1e\+20"):
        assumed_speed_of(speed)


def test_the_phases_that_may_be_named_are_those_of_the_run_in_its_order():
    assert tuple(phase.name for phase in RUN) == PHASES
