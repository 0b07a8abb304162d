"""The measurement of speed: real steps, figures that fit together, what is named is taken as it is."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nanogpt.config import Config
from nanogpt.measure import profiler, sizes
from nanogpt.model.gpt import GPT
from nanogpt.model.lora import add_adapters
from tests.nanogpt.model_case import small
from tests.nanogpt.training_case import tiny


@pytest.fixture(autouse=True)
def threads_as_they_were():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def with_vocabulary(config: Config) -> Config:
    return config.with_changes({"model.vocab_size": 50})


def test_figures_fit_together():
    config = with_vocabulary(tiny(batch_size=2, gradient_accumulation=3))
    speed = profiler.measure_speed(config, seconds=1.0)  # a busy machine takes 40 ms for a step
    assert speed.steps >= 3 and speed.threads == 1 and speed.precision == "float32"
    tokens_a_step = 2 * 3 * config.model.block_size
    assert speed.tokens_per_second * speed.seconds_per_step == pytest.approx(tokens_a_step)
    assert speed.flops_per_second / speed.tokens_per_second > 6 * 2 * 12 * 16**2  # forward and backward


@pytest.mark.parametrize("mixed_precision, threads", [(False, 1), (True, None), ("auto", None)])
def test_the_fastest_of_what_is_open_is_chosen(monkeypatch, mixed_precision, threads):
    tried = []

    def measured(config, seconds):
        device = config.device
        tried.append((device.mixed_precision, device.threads))
        step = (0.2 if device.mixed_precision else 0.3) / (2 if device.threads == 1 else 1)
        return SimpleNamespace(seconds_per_step=step, mixed_precision=device.mixed_precision, threads=device.threads)

    monkeypatch.setattr(profiler, "measure_speed", measured)
    monkeypatch.setattr(profiler.devices, "physical_cores", lambda: 4)
    config = tiny().with_changes({"device.mixed_precision": mixed_precision, "device.threads": threads})
    chosen = profiler.choose_precision_and_threads(config.model_dump(), "cpu", 1.0)
    assert chosen.threads == 1
    assert chosen.mixed_precision == (mixed_precision is not False)
    assert all(pair[0] == mixed_precision for pair in tried) or mixed_precision == "auto"
    assert all(pair[1] == threads for pair in tried) or threads is None


@pytest.mark.parametrize("bad", range(6))
def test_a_bad_moment_of_the_machine_decides_nothing(monkeypatch, bad):
    """Two threads in bfloat16 are the fastest here; one of the measurements finds the machine three times slower."""
    moments = iter(range(100))

    def measured(config, seconds):
        device = config.device
        step = (0.03 if device.mixed_precision else 0.04) * (1.7 if device.threads == 1 else 1.0)
        step *= 3 if next(moments) == bad else 1
        return SimpleNamespace(seconds_per_step=step, mixed_precision=device.mixed_precision, threads=device.threads)

    monkeypatch.setattr(profiler, "measure_speed", measured)
    monkeypatch.setattr(profiler.devices, "physical_cores", lambda: 2)
    config = tiny().with_changes({"device.mixed_precision": "auto", "device.threads": None})
    chosen = profiler.choose_precision_and_threads(config.model_dump(), "cpu", 1.0)
    assert chosen.mixed_precision is True and chosen.threads is None


def test_float16_can_be_measured(monkeypatch):
    """Held against small products: of 1024 x 1024, a CPU without float16 takes 2 s for each."""
    monkeypatch.setattr(profiler.devices, "matmul_rate", partial(profiler.devices.matmul_rate, size=128))
    config = with_vocabulary(tiny()).with_changes({"device.mixed_precision": "float16"})
    speed = profiler.measure_speed(config, seconds=0.01)
    assert speed.precision == "float16" and speed.tokens_per_second > 0


def test_speed_is_held_against_plain_matrix_products():
    speed = profiler.measure_speed(with_vocabulary(tiny()), seconds=0.01)
    assert speed.share_of_matmul == pytest.approx(speed.flops_per_second / speed.matmul_flops_per_second)
    assert speed.share_of_peak is None  # nobody names one for a CPU


def profiled(tmp_path, **training):
    config = with_vocabulary(tiny(**training))
    return profiler.profile(config, steps=2, trace=tmp_path / "deep" / "trace.json")


def test_the_shares_of_a_profile_add_up(tmp_path):
    found = profiled(tmp_path, optimizer="muon")
    assert list(found.seconds) == [part for part in profiler.PARTS if part != "weight average"]
    assert sum(found.shares.values()) == pytest.approx(1)
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert "traceEvents" in json.loads((tmp_path / "deep" / "trace.json").read_text())


def test_parts_that_a_training_lacks_are_left_out(tmp_path):
    assert "Muon" not in profiled(tmp_path, optimizer="adamw").seconds
    assert "weight average" in profiled(tmp_path, weight_average=0.9).seconds


def test_time_within_a_part_is_not_counted_twice():
    now = iter([0.0, 1.0, 4.0, 10.0])
    watch = profiler.Stopwatch("cpu", lambda: next(now))
    with watch.part("AdamW"), watch.part("Muon"):
        pass
    assert watch.seconds == {"Muon": 3.0, "AdamW": 7.0}


def test_fewer_steps_between_evaluations_give_them_a_larger_share(tmp_path):
    rarely, often = (profiled(tmp_path, eval_interval=interval).shares["evaluation"] for interval in (10_000, 1))
    assert rarely < often


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("preset", ["modern", "gpt2"])
def test_operations_are_those_that_torch_counts_in_a_real_step(preset, rank):
    """In forward and backward, products only; with adapters the model's own weights have no gradients."""
    config = small(preset, n_embd=64, n_layer=6, vocab_size=200)
    model = GPT(config)
    if rank:
        add_adapters(model, rank, alpha=4.0)
    assert sizes.flops_per_token(config, rank) == model.flops_per_token()
    tokens = torch.zeros(8, config.block_size, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(tokens, tokens)[1].backward()
    assert counter.get_total_flops() / tokens.numel() == pytest.approx(model.flops_per_token(), rel=0.1)
