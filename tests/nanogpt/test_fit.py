"""The steps down in memory: the samples of a step stay, and each takes less than the one before."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.config import Config
from nanogpt.fit import SHORTEST_WINDOW, Fit

BLOCKS = (64, 96, 127, 128, 256, 1024)


def config(batch: int = 12, accumulation: int = 1, block_size: int = 256, **device) -> Config:
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": block_size}
    training = {"batch_size": batch, "gradient_accumulation": accumulation}
    return Config.model_validate({"model": shape, "training": training, "device": device})


def steps_down(of: Config, cut_windows: bool = True) -> list[Fit]:
    fits = [Fit.of(of)]
    while (smaller := fits[-1].smaller(of, cut_windows)) is not None:
        fits.append(smaller)
    return fits


@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from(BLOCKS), st.booleans())
def test_each_step_takes_less_and_keeps_the_samples_of_a_step(batch, accumulation, block_size, cut_windows):
    whole = config(batch, accumulation, block_size)
    fits = steps_down(whole, cut_windows)
    assert all(after.memory_order < before.memory_order for before, after in pairwise(fits))
    for fit in fits:
        made = fit.applied_to(whole)
        assert made.training.batch_size * made.training.gradient_accumulation == batch * accumulation
        assert Fit.of(made) == fit
    assert (fits[-1].micro_batch, fits[-1].gradient_checkpointing) == (1, True)
    assert fits[-1].longest_window is None or cut_windows


def test_micro_batches_come_first_then_checkpointing_then_windows():
    fits = [(fit.micro_batch, fit.gradient_checkpointing, fit.longest_window) for fit in steps_down(config())]
    assert fits == [(12, False, None), (6, False, None), (3, False, None), (1, False, None), (1, True, None),
                    (1, True, 128), (1, True, 64)]  # fmt: skip


@pytest.mark.parametrize("block_size", [64, 96, 127])
def test_windows_stay_long_enough_to_learn_from_and_become_the_whole_by_doubling(block_size):
    assert steps_down(config(1, block_size=block_size))[-1].longest_window is None


def test_a_window_longer_than_the_model_counts_as_whole():
    fits = steps_down(config(1, longest_window=4096, gradient_checkpointing=True))
    assert [fit.longest_window for fit in fits[1:]] == [128, SHORTEST_WINDOW]


def test_it_is_described_for_people():
    assert Fit(3).describe(config()) == "micro-batches of 3"
    words = Fit(1, gradient_checkpointing=True, longest_window=64).describe(config())
    assert words == "micro-batches of 1, gradient checkpointing, windows of 64 tokens"
