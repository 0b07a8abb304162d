"""Muon's orthogonalisation and grouping, AdamW's groups, and states that go through a file."""

import copy
import io
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT
from nanogpt.training.update.muon import QUINTICS, Muon, orthogonalize
from nanogpt.training.update.newton_schulz import NEWTON_SCHULZ
from nanogpt.training.update.optimizer import Optimizer

pytestmark = pytest.mark.fast

SIZES = dict(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=11)
SHAPE = ModelConfig(**SIZES)


def backward(model: GPT, seed: int = 0) -> None:
    tokens = torch.randint(11, (4, 9), generator=torch.Generator().manual_seed(seed))
    model(tokens[:, :-1], tokens[:, 1:])[1].backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_singular_values_come_near_one_and_directions_stay(dtype, shape):
    matrices = 1e-6 * torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    found = orthogonalize(matrices, dtype).float()
    values = torch.linalg.svdvals(found)
    rounding = 0.01 if dtype == torch.float32 else 0.2
    assert values.min() > 0.35 - rounding and values.max() < 1.65 + rounding
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    along = (left.mT @ found @ right.mT).diagonal(dim1=1, dim2=2)  # u found v of each direction
    torch.testing.assert_close(along, torch.ones_like(along), rtol=0.85, atol=0)
    assert not orthogonalize(torch.zeros(2, 4, 8), dtype).any()  # as of queries, whose gradient begins at zero


@pytest.mark.fast
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 16, 48)])
def test_gradients_next_to_nothing_move_a_matrix_no_further_than_others(shape, dtype):
    """A head that starts at zero and learns slowly lets through as little."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for size in range(-44, 0):
        step = orthogonalize(matrices * 10.0**size, dtype).float()
        assert step.isfinite().all() and torch.linalg.svdvals(step).max() < 8, size


@given(st.integers(0, 2**31), st.floats(0, 4), st.sampled_from([(24, 24), (16, 48), (64, 20)]))
@settings(max_examples=20, deadline=None)
def test_no_direction_is_blown_up_however_ill_conditioned(seed, decades, shape):
    torch.manual_seed(seed)
    matrices = torch.randn(3, *shape) @ torch.diag(10 ** -torch.linspace(0, decades, shape[1]))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.linalg.svdvals(orthogonalize(matrices, dtype).float()).max() < 8


def test_in_float32_the_steps_on_the_gram_matrix_are_the_steps_on_the_matrix():
    matrices = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = matrices / (matrices @ matrices.mT).norm(dim=(1, 2), keepdim=True).sqrt()
    for a, b, c in QUINTICS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    torch.testing.assert_close(orthogonalize(matrices.float(), torch.float32), x.float(), rtol=1e-4, atol=1e-4)


def test_the_batched_update_is_that_of_each_matrix_alone():
    torch.manual_seed(0)
    stacked = torch.nn.Parameter(torch.randn(20, 8))  # three matrices on top of one another
    wide = torch.nn.Parameter(torch.randn(8, 12))
    parameters = {stacked: (8, 8, 4), wide: (8,)}
    expected = []
    for parameter, rows in parameters.items():
        parameter.grad = torch.randn_like(parameter)
        blocks = []
        for weight, gradient in zip(parameter.detach().split(rows), parameter.grad.split(rows), strict=True):
            momentum = 0.05 * gradient
            nesterov = torch.lerp(gradient, momentum, 0.95)
            tall = weight.size(0) > weight.size(1)
            flat = nesterov.mT if tall else nesterov
            step = orthogonalize(flat[None], torch.float32)[0]
            blocks.append(weight - 0.1 * max(1, weight.size(0) / weight.size(1)) ** 0.5 * (step.mT if tall else step))
        expected.append(torch.cat(blocks))
    Muon(parameters, 0.1, 0.95, 0.0, torch.float32).step(1.0)
    for parameter, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("preset", ["modern", "gpt2"])
def test_every_parameter_moves(optimizer, preset):
    model = GPT(ModelConfig(**SIZES, preset=preset))
    optimizer = Optimizer(model, TrainingConfig(optimizer=optimizer))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for seed in range(3):  # what starts at zero lets gradients through only after it has moved
        optimizer.forget_gradients()
        backward(model, seed)
        optimizer.step(1.0)
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []


def test_a_tied_table_has_the_rate_of_a_head():
    config = TrainingConfig(embedding_learning_rate=0.5, learning_rate=0.25)
    tied = Optimizer(GPT(ModelConfig(**SIZES, preset="gpt2", position="rope")), config)
    assert set(tied.peaks) == {0.25}
    assert set(Optimizer(GPT(SHAPE), config).peaks) == {0.25, 0.5}


def test_the_gradient_norm_needs_no_foreach_kernels(monkeypatch):
    """MPS has none: torch refuses foreach=True there."""
    optimizer = Optimizer(model := GPT(SHAPE), TrainingConfig())
    backward(model)
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()
    torch.testing.assert_close(optimizer.gradient_norm(), expected)
    for name in ("_device_has_foreach_support", "_has_foreach_support"):
        monkeypatch.setattr(f"torch.nn.utils.clip_grad.{name}", lambda *args: False)
    torch.testing.assert_close(optimizer.gradient_norm(), expected)


def test_the_dial_turns_every_rate():
    model = GPT(SHAPE)
    optimizer = Optimizer(model, TrainingConfig())
    backward(model)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step(0.0)
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("kind, interval", [("muon", 1), ("muon", 2), ("adamw", 1)])
def test_a_state_that_went_through_a_file_goes_on_the_same(kind, interval):
    config = TrainingConfig(optimizer=kind, muon_interval=interval, weight_decay=0.1)
    straight, resumed = GPT(SHAPE), GPT(SHAPE)
    first = Optimizer(straight, config)
    for seed in range(3):
        first.forget_gradients()
        backward(straight, seed)
        first.step(1.0)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(straight.state_dict())
    second = Optimizer(resumed, config)
    second.load_state_dict(torch.load(file, weights_only=True))
    for model, optimizer in ((straight, first), (resumed, second)):
        optimizer.forget_gradients()
        backward(model, 9)
        optimizer.step(0.5)
    assert all(map(torch.equal, straight.parameters(), resumed.parameters()))


def test_with_an_interval_of_two_a_matrix_moves_every_second_step_twice_as_far():
    weights = {}
    for interval in (1, 2):
        torch.manual_seed(0)
        parameters = {nn.Parameter(torch.randn(8, 8)): (4, 4), nn.Parameter(torch.randn(6, 8)): (6,)}
        muon = Muon(parameters, 0.1, 0.9, 0.0, torch.float32, interval)
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        before = [parameter.detach().clone() for parameter in parameters]
        muon.step(1.0)
        moved = [not torch.equal(*pair) for pair in zip(parameters, before, strict=True)]
        assert moved == ([True, True] if interval == 1 else [False, True])
        muon.step(1.0)  # with the same gradients, so in the same direction
        weights[interval] = list(parameters)
    for one, other in zip(weights[1], weights[2], strict=True):
        torch.testing.assert_close(one, other)


def test_a_state_of_an_earlier_version_goes_on_by_its_own_method():
    straight, resumed = GPT(SHAPE), GPT(SHAPE)
    first = Optimizer(straight, TrainingConfig(weight_decay=0.1), muon=NEWTON_SCHULZ)
    backward(straight)
    first.step(1.0)
    state = copy.deepcopy(first.state_dict())
    del state["muon"]["method"]  # earlier versions wrote none
    resumed.load_state_dict(straight.state_dict())
    second = Optimizer(resumed, TrainingConfig(weight_decay=0.1))
    second.load_state_dict(state)
    for model, optimizer in ((straight, first), (resumed, second)):
        optimizer.forget_gradients()
        backward(model, 9)
        optimizer.step(0.5)
    assert all(map(torch.equal, straight.parameters(), resumed.parameters()))
    assert second.state_dict()["muon"]["method"] == NEWTON_SCHULZ


def test_a_method_of_a_later_version_is_refused_by_its_name():
    optimizer = Optimizer(GPT(SHAPE), TrainingConfig())
    state = optimizer.state_dict()
    state["muon"]["method"] = "tomorrow's"
    with pytest.raises(UserError, match="tomorrow's"):
        optimizer.load_state_dict(state)


def test_a_step_needs_nothing_of_torchs_compiler():
    script = """
import sys, torch
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.model.gpt import GPT
from nanogpt.training.update.optimizer import Optimizer
model = GPT(ModelConfig(n_layer=1, n_head=1, n_embd=16, block_size=8, vocab_size=11), seed=1)
optimizer = Optimizer(model, TrainingConfig(optimizer="muon"))
model(torch.zeros(1, 8, dtype=torch.long), torch.zeros(1, 8, dtype=torch.long))[1].backward()
optimizer.step(1.0)
optimizer.load_state_dict(optimizer.state_dict())
print(sorted({"sympy", "torch._dynamo"} & set(sys.modules)))
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n", "each process of a run would take a second longer to start"
