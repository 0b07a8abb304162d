"""Units read well, and nothing but the standard library is needed to write them."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt import units


@pytest.mark.parametrize(
    "write, value, words",
    [
        (units.byte_size, 0, "0 B"),
        (units.byte_size, 1536, "1.5 KiB"),
        (units.byte_size, -2048, "-2.0 KiB"),
        (units.byte_size, 3 * 2**40, "3,072.0 GiB"),
        (units.duration, 0.0123, "12 ms"),
        (units.duration, 8.42, "8.4 s"),
        (units.duration, 59.97, "1 min 00 s"),
        (units.duration, 200, "3 min 20 s"),
        (units.duration, 3599.9, "1 h 00 min"),
        (units.duration, 21900, "6 h 05 min"),
        (units.chosen_duration, 600, "10 min"),
        (units.chosen_duration, 7200, "2 h"),
        (units.chosen_duration, 5400, "1 h 30 min"),
        (units.chosen_duration, 90, "1 min 30 s"),
        (units.milliseconds, 0.00321, "3.21 ms"),
        (units.milliseconds, 1.5, "1.5 s"),
        (units.clock, 75, "1:15"),
        (units.clock, 59.6, "1:00"),
        (units.clock, 7384, "2:03:04"),
        (units.number, 1115394, "1,115,394"),
        (units.number, 0.00012345, "0.0001234"),
        (units.number, 1.88571, "1.886"),
        (units.number, float("inf"), "inf"),
        (units.number, True, "True"),
        (units.count, 803_000, "0.80 M"),
        (units.count, 124e6, "124.0 M"),
        (units.count, 1.24e9, "1.24 B"),
        (units.count, 512, "512"),
        (units.si, 1234567, "1.23 M"),
        (units.si, 3.2e15, "3.2 P"),
        (units.si, 999, "999"),
        (units.si, 0, "0"),
        (units.flops, 1.2e11, "120 GFLOP/s"),
        (units.flops, 2.9e12, "2.9 TFLOP/s"),
        (units.percent, 0.163, "16 %"),
        (units.percent, 0.0163, "1.6 %"),
    ],
)
def test_units_read_well(write, value, words):
    assert write(value) == words
    assert write(None) == units.NOTHING


@given(st.floats(0, 1e9))
def test_a_duration_and_a_clock_say_the_same_time(seconds):
    parts = [int(part) for part in units.clock(seconds).split(":")]
    shown = sum(part * 60**place for place, part in enumerate(reversed(parts)))
    assert abs(shown - seconds) <= 0.5
    assert units.duration(seconds)


@pytest.mark.parametrize(
    "steps, is_estimate, words",
    [(1980, False, "1,059/1,980"), (1980, True, "1,059 of about 1,980"), (0, True, "1,059"), (0, False, "1,059")],
)
def test_a_step_of_so_many_says_whether_they_are_an_estimate(steps, is_estimate, words):
    assert units.step_of(1059, steps, is_estimate) == words


def test_the_standard_library_is_enough():
    code = "import sys; from nanogpt import units; sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-S", "-c", code], check=False).returncode == 0
