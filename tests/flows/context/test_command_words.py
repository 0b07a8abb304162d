"""Budgets and phases, as the words of a command line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.context.command_words import PHASES, SHORTEST_BUDGET, seconds_of
from flows.full_run import PHASES as RUN


@given(st.floats(1, 1e6, allow_nan=False).map(lambda number: round(number, 2)), st.sampled_from("smhd"))
def test_a_budget_is_its_number_times_its_unit(number, unit):
    expected = number * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    if expected >= SHORTEST_BUDGET:
        assert seconds_of(f" {number}{unit} ") == pytest.approx(expected)
    else:
        with pytest.raises(ValueError, match="shortest budget"):
            seconds_of(f"{number}{unit}")


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


def test_the_phases_that_may_be_named_are_those_of_the_run_in_its_order():
    assert tuple(phase.name for phase in RUN) == PHASES
