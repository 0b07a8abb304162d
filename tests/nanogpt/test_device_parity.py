"""The comparison of a device with the CPU: what is right passes in every precision, what is wrong does not."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.faults import DEVICE, DeviceError, classify
from nanogpt.model.gpt import GPT
from nanogpt.training import parity
from nanogpt.weights.checkpoint import random_state
from tests.nanogpt.model_case import randomised, small, some_tokens

ROWS = 40  # of 16 tokens: more than are compared, so that a fault can be put into the device's pass alone


def a_pass(model: GPT, rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = some_tokens(model.config, rows)
    return tokens, tokens.roll(-1, dims=1)


def spoil(model: GPT, change) -> None:
    """The "device" multiplies wrongly in one layer, at its own shape only: the CPU's part of the pass stays right."""

    def spoiled(module, inputs, output):
        return change(output) if output.shape[0] == ROWS else None

    model.blocks[1].feedforward.register_forward_hook(spoiled)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(["gpt2", "modern"]), st.sampled_from(["float32", "bfloat16", "float16"]),
       st.integers(1, ROWS), st.sampled_from([0.0, 0.3]))  # fmt: skip
def test_a_device_that_only_rounds_passes(preset, precision, rows, dropout):
    model = randomised(small(preset, dropout=dropout)).train()
    found = parity.require_parity(model, *a_pass(model, rows), precision, loss_scale=2.0**16)
    assert found.tokens == min(rows, parity.MOST_TOKENS // 16) * 16
    assert found.gradient > 0 or precision == "float32"


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "change", [lambda y: y * 0, lambda y: -y, lambda y: y * math.nan, lambda y: torch.where(y > 0.5, math.inf, y)]
)
def test_a_device_that_computes_something_else_is_found(precision, change):
    model = randomised(small())
    spoil(model, change)
    with pytest.raises(DeviceError, match=f"cpu in {precision} does not compute what the CPU does") as caught:
        parity.require_parity(model, *a_pass(model), precision)
    assert classify(caught.value) == DEVICE


def test_one_percent_off_is_found_in_float32():
    model = randomised(small())
    spoil(model, lambda y: y * 1.01)
    with pytest.raises(DeviceError, match="gradient of"):
        parity.require_parity(model, *a_pass(model), "float32")


def test_only_the_backward_pass_is_wrong():
    model = randomised(small())

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 2

    spoil(model, Doubled.apply)
    found = parity.compare(model, *a_pass(model), "float32")
    assert found.loss < 1e-6 and found.gradient > 0.1


@pytest.mark.parametrize("preset", ["gpt2", "modern"])
def test_fresh_weights_of_zero_hide_nothing(preset):
    model = GPT(small(preset))
    spoil(model, lambda y: y * 1.5)
    with pytest.raises(DeviceError):
        parity.require_parity(model, *a_pass(model), "float32")


def test_a_text_known_by_heart_raises_no_false_alarm():
    model = GPT(small())
    tokens, targets = a_pass(model, rows=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(tokens, targets)[1]
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert parity.require_parity(model, tokens, targets, "bfloat16")


def test_nothing_of_the_training_changes():
    model = randomised(small(dropout=0.5)).train()
    model.gradient_checkpointing = True
    before, weights = random_state("cpu"), [p.clone() for p in model.parameters()]
    parity.require_parity(model, *a_pass(model), "float32")
    after = random_state("cpu")
    assert torch.equal(before["torch"], after["torch"]) and before["python"] == after["python"]
    assert torch.equal(before["numpy"]["state"]["key"], after["numpy"]["state"]["key"])
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad and torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


def test_weights_that_are_no_numbers_are_not_the_devices_fault():
    model = randomised(small())
    with torch.no_grad():
        model.head.weight[0, 0] = math.nan
    assert parity.require_parity(model, *a_pass(model), "float32") is None


def test_the_cpus_part_is_bounded_for_every_size():
    class Large(GPT):
        def flops_per_token(self):
            return 10**10

    model = Large(small(block_size=64))
    assert parity.compared_part(model, 8, 64) == (1, 30)
    assert parity.compared_part(GPT(small(block_size=64)), 8, 64) == (4, 64)
    assert parity.compared_part(GPT(small(block_size=64)), 2, 64) == (2, 64)


def test_tf32_has_limits_of_its_own(monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert parity.limits_of("cuda", "float32") == parity.LIMITS["tf32"]
    assert parity.limits_of("mps", "float32") == parity.LIMITS["float32"]
    assert parity.limits_of("cuda", "bfloat16") == parity.LIMITS["bfloat16"]
