"""How a training fits into memory, and the order in which it becomes smaller."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.fit import SHORTEST_WINDOW, Fit, halved, largest_divisor
from tests.nanogpt.training_case import tiny

pytestmark = pytest.mark.fast


def all_smaller(fit: Fit, sequences=None, cut_windows_of=None) -> list[Fit]:
    made = [fit]
    while (smaller := made[-1].smaller(sequences, cut_windows_of)) is not None:
        made.append(smaller)
    return made


def test_first_the_micro_batch_then_checkpointing_then_the_windows():
    made = all_smaller(Fit(6), sequences=12, cut_windows_of=256)
    assert [fit.micro_batch for fit in made] == [6, 3, 1, 1, 1, 1]
    assert [fit.gradient_checkpointing for fit in made] == [False] * 3 + [True] * 3
    assert [fit.longest_window for fit in made] == [None] * 4 + [128, 64]
    assert str(made[-1]) == "micro-batch 1, gradient checkpointing, windows of 64 tokens"


def test_windows_are_cut_only_where_they_may_be():
    assert all_smaller(Fit(2))[-1] == Fit(1, gradient_checkpointing=True)
    assert all_smaller(Fit(1, True), cut_windows_of=SHORTEST_WINDOW) == [Fit(1, True)]
    assert all_smaller(Fit(1, True, 192), cut_windows_of=384)[-1].longest_window == 96


@given(st.integers(1, 300), st.integers(1, 40))
def test_every_smaller_one_takes_less_and_divides_the_step(sequences, micro_batch):
    made = all_smaller(Fit(micro_batch), sequences, cut_windows_of=512)
    assert all(sequences % fit.micro_batch == 0 for fit in made[1:])
    assert [fit.memory_rank for fit in made] == sorted({fit.memory_rank for fit in made}, reverse=True)
    assert (made[-1].micro_batch, made[-1].gradient_checkpointing, made[-1].longest_window) == (1, True, 64)


@given(st.integers(1, 500), st.integers(1, 600))
def test_the_largest_divisor(number, at_most):
    assert largest_divisor(number, at_most) == max(d for d in range(1, at_most + 1) if number % d == 0)


def test_a_half_without_a_step_to_divide_is_half():
    assert [halved(size) for size in (9, 4, 2, 1)] == [4, 2, 1, None]


def test_a_step_of_a_million_million_sequences_is_no_search():
    began = time.monotonic()
    assert Fit(10**12 + 39).smaller(10**12 + 39).micro_batch == 1  # a prime
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("changes", [
    {}, {"device.mixed_precision": "float16", "device.longest_window": 8}, {"device.mixed_precision": True},
    {"device.mixed_precision": "auto", "device.gradient_checkpointing": True, "training.gradient_accumulation": 3},
])  # fmt: skip
def test_what_a_configuration_says_is_applied_to_it_unchanged(changes):
    config = tiny(batch_size=6).with_changes(changes)
    assert Fit.of(config).applied_to(config) == config
    smaller = Fit.of(config).smaller(config.training.sequences_per_step).applied_to(config)
    assert smaller.training.batch_size == 3
    assert smaller.training.sequences_per_step == config.training.sequences_per_step
