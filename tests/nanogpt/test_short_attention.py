"""Attention over short windows: its gradient is that of finite differences, and both paths compute the same."""

import pytest
import torch

from nanogpt.model import short_attention
from nanogpt.model.attention import Attention
from nanogpt.model.positional import Rotary
from nanogpt.model.short_attention import ShortAttention
from tests.nanogpt.model_case import small

B, T, D = 2, 5, 4


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n_head, n_kv_head", [(2, 2), (4, 2), (3, 1)])
@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("rope", [True, False])
def test_the_written_gradient_is_that_of_finite_differences(n_head, n_kv_head, qk_norm, rope):
    heads = random(B, T, n_head + 2 * n_kv_head, D).requires_grad_()
    weights = [random(D, seed=seed).requires_grad_() for seed in (1, 2)] if qk_norm else [None, None]
    tables = [table.double() for table in Rotary(D, T, 10.0)(slice(T))] if rope else [None, None]
    arguments = (heads, *weights, 1e-3, *tables, n_head, n_kv_head)
    assert torch.autograd.gradcheck(ShortAttention.apply, arguments)


def test_a_window_of_one_position_leaves_its_input_as_it_is():
    """Each head's rows lie together there without a copy, and autograd refused what was written over them."""
    heads, tables = random(1, 1, 3, D), [table.double() for table in Rotary(D, 1, 10.0)(slice(1))]
    weights = [random(D, seed=seed).requires_grad_() for seed in (1, 2)]
    projected = heads.clone().view(1, 1, 3 * D).requires_grad_()
    ShortAttention.apply(projected.view(1, 1, 3, D), *weights, 1e-3, *tables, 1, 1).sum().backward()
    torch.testing.assert_close(projected.detach().view(1, 1, 3, D), heads, rtol=0, atol=0)


@pytest.mark.parametrize("options", [
    dict(preset="modern"), dict(preset="modern", n_kv_head=2), dict(preset="modern", n_kv_head=1, qk_norm=False),
    dict(preset="gpt2"), dict(preset="gpt2", qk_norm=True),
], ids=str)  # fmt: skip
def test_both_paths_compute_the_same(options, monkeypatch):
    """In float64, where a difference beyond rounding would show: output, gradient of the input and of each weight."""
    config = small(**options)
    attention = Attention(config, layer=0).double()
    with torch.no_grad():
        for seed, parameter in enumerate(attention.parameters()):
            parameter.copy_(random(*parameter.shape, seed=seed))
    x = random(B, 16, config.n_embd, seed=9).requires_grad_()
    rotation = Rotary(config.head_width, 16, 1e4)(slice(16)) if config.position == "rope" else None
    results = []
    for short in (True, False):
        monkeypatch.setattr(short_attention, "applies", lambda heads, short=short: short)
        y = attention(x, rotation)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *attention.parameters()])])
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-8)


def test_it_is_taken_for_short_bfloat16_windows_that_train_on_a_cpu(monkeypatch):
    monkeypatch.setattr(short_attention, "has_bfloat16_instructions", lambda: True)
    heads = torch.zeros(1, 8, 3, 4, dtype=torch.bfloat16)
    assert short_attention.applies(heads)
    assert not short_attention.applies(heads.float())
    assert not short_attention.applies(heads.expand(1, 8, 3, 4).repeat(1, 65, 1, 1))  # 520 positions
    assert not short_attention.applies(heads.to("meta"))
    with torch.no_grad():
        assert not short_attention.applies(heads)
