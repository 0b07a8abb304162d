"""The measurement of speed: real steps, figures that fit together, what is named is taken as it is."""

import pytest
import torch

from nanogpt.training import profiler
from tests.nanogpt.training_case import tiny

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def threads_as_they_were():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_figures_fit_together():
    config = tiny(batch_size=2, gradient_accumulation=3)
    speed = profiler.measure_speed(config, vocab_size=50, seconds=0.1)
    assert speed["steps"] >= 1 and speed["threads"] == 1 and speed["precision"] == "float32"
    tokens_a_step = 2 * 3 * config.model.block_size
    assert speed["tokens_per_second"] * speed["seconds_per_step"] == pytest.approx(tokens_a_step)
    assert speed["flops_per_second"] / speed["tokens_per_second"] > 6 * 2 * 12 * 16**2  # forward and backward


@pytest.mark.parametrize("mixed_precision, threads", [(False, 1), (True, None), ("auto", None)])
def test_the_fastest_of_what_is_open_is_chosen(monkeypatch, mixed_precision, threads):
    tried = []

    def measured(config, vocab_size, seconds):
        device = config.device
        tried.append((device.mixed_precision, device.threads))
        step = (0.2 if device.mixed_precision else 0.3) / (2 if device.threads == 1 else 1)
        return {"seconds_per_step": step, "mixed_precision": device.mixed_precision, "threads": device.threads}

    monkeypatch.setattr(profiler, "measure_speed", measured)
    monkeypatch.setattr(profiler.devices, "physical_cores", lambda: 4)
    config = tiny().with_changes({"device.mixed_precision": mixed_precision, "device.threads": threads})
    chosen = profiler.choose_precision_and_threads(config.model_dump(), "cpu", 1.0)
    assert chosen["threads"] == 1
    assert chosen["mixed_precision"] == (mixed_precision is not False)
    assert all(pair[0] == mixed_precision for pair in tried) or mixed_precision == "auto"
    assert all(pair[1] == threads for pair in tried) or threads is None
