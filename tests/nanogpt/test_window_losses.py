"""The loss of each window of a split, and the interval of what is drawn from them."""

import numpy as np
import pytest
import torch

from nanogpt.data.shards import open_split
from nanogpt.evaluation.perplexity import evaluate_split
from nanogpt.evaluation.window_losses import Windows, losses, mean
from nanogpt.faults import NonFiniteError, UserError
from tests.nanogpt.model_case import randomised, small
from tests.nanogpt.training_case import make_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.fast
def test_windows_cost_what_the_evaluation_says(data):
    split, window = open_split(data, "test"), 16
    model = randomised(small(vocab_size=split.vocab_size))
    windows = Windows.of(split, window)
    nats = losses(model, windows)
    whole = evaluate_split(model, data, "test", window)
    assert nats.sum() / (len(windows) * window) == pytest.approx(whole.loss, rel=0.01)  # but for the short last window
    assert windows.bits_per_byte(nats).mean() == pytest.approx(whole.bits_per_byte, rel=0.01)


@pytest.mark.fast
def test_an_interval_holds_the_mean_of_most_samples_and_shrinks_with_their_number():
    generator = np.random.default_rng(1)
    found = [mean(generator.normal(2.0, 1.0, 60)).estimate() for _ in range(20)]
    assert 15 <= sum(estimate.low <= 2.0 <= estimate.high for estimate in found) <= 20
    few, many = (mean(generator.normal(2.0, 1.0, count)).estimate() for count in (50, 5000))
    assert many.high - many.low < 0.2 * (few.high - few.low)


@pytest.mark.fast
def test_windows_that_are_like_their_neighbours_say_less():
    generator = np.random.default_rng(2)
    passages = np.repeat(generator.normal(2.0, 0.5, 50), 20) + generator.normal(0.0, 0.1, 1000)
    alike, apart = (mean(figures).estimate() for figures in (passages, generator.permutation(passages)))
    assert alike.high - alike.low > 3 * (apart.high - apart.low)


@pytest.mark.fast
def test_windows_are_spread_over_the_whole_split(data):
    split = open_split(data, "test")
    windows = Windows.of(split, 8, most_tokens=80)
    assert len(windows) == 10 and windows.tokens.shape == (10, 9)
    assert windows.tokens[0].tolist() == split.tokens[:9].tolist()
    last = ((len(split.tokens) - 1) // 8 - 1) * 8
    assert windows.tokens[-1].tolist() == split.tokens[last : last + 9].tolist()
    with pytest.raises(UserError, match="two windows"):
        Windows.of(split, len(split.tokens))


@pytest.mark.fast
def test_a_model_of_nan_is_not_judged(data):
    model = randomised(small(vocab_size=open_split(data, "test").vocab_size))
    with torch.no_grad():
        model.head.weight[:] = torch.nan
    with pytest.raises(NonFiniteError):
        losses(model, Windows.of(open_split(data, "test"), 16))


@pytest.mark.fast
def test_nothing_becomes_float64_before_it_is_on_the_cpu(data, monkeypatch):
    """MPS has no float64: a run on a Mac continued on the CPU."""
    split, on_cpu, cpu, double = open_split(data, "test"), [], torch.Tensor.cpu, torch.Tensor.double

    def to_cpu(tensor):
        on_cpu.append(cpu(tensor))
        return on_cpu[-1]

    def to_double(tensor):
        assert any(tensor is other for other in on_cpu), "float64 on the device"
        return double(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", to_cpu)
    monkeypatch.setattr(torch.Tensor, "double", to_double)
    assert len(losses(randomised(small(vocab_size=split.vocab_size)), Windows.of(split, 16))) > 1
