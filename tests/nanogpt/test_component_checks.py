"""Each check passes on a model that is right, and fails when the part that it watches is broken."""

import json

import pytest
import torch

from nanogpt.model import attention, gpt, positional
from nanogpt.model.attention import Attention, KVCache
from nanogpt.model.norm import LayerNorm, RMSNorm
from nanogpt.records import from_json, to_json
from nanogpt.results.machine import ComponentCheck
from nanogpt.study import component_checks
from nanogpt.weights import checkpoint

# Not among the fast ones: the checks themselves are phase 2 of a run.
SDPA = torch.nn.functional.scaled_dot_product_attention


def test_all_pass_on_the_cpu_and_are_json():
    checks = component_checks.run_checks("cpu", seed=1)
    assert [check.name for check in checks if not check.passed] == []
    assert {check.group for check in checks} == {"component", "device"}
    assert [from_json(ComponentCheck, json.loads(json.dumps(to_json(check)))) for check in checks] == checks


def test_what_is_not_a_number_fails_and_is_still_json():
    found = component_checks.check("x", float("nan"), 1.0, "", "")
    assert not found.passed
    json.dumps(to_json(found), allow_nan=False)


def failed(check) -> list[str]:
    return [one.name for one in check("cpu", 0) if not one.passed]


@pytest.mark.parametrize(
    "check",
    [component_checks.causal_mask, component_checks.initial_loss, component_checks.cached_decoding,
     component_checks.overfitting, component_checks.device_parity],
)  # fmt: skip
def test_a_device_that_computes_nan_fails(monkeypatch, check):
    whole = gpt.GPT.hidden

    def broken(self, *args):
        x = whole(self, *args)
        return x * float("nan") if self.config.preset == "modern" and x.dtype == torch.float32 else x

    monkeypatch.setattr(gpt.GPT, "hidden", broken)
    assert failed(check)


def test_a_model_that_sees_the_future_fails(monkeypatch):
    monkeypatch.setattr(Attention, "attend", lambda self, q, k, v: SDPA(q, self.share(k), self.share(v)))
    assert failed(component_checks.causal_mask)
    assert failed(component_checks.attention_reference)


def test_wrong_scale_of_attention_fails(monkeypatch):
    monkeypatch.setattr(
        attention.F, "scaled_dot_product_attention", lambda *args, **options: SDPA(*args, scale=0.2, **options)
    )
    assert failed(component_checks.attention_reference)


def test_heads_shared_in_the_wrong_order_fail(monkeypatch):
    monkeypatch.setattr(Attention, "share", lambda self, x: x.repeat(1, self.n_head // self.n_kv_head, 1, 1))
    assert failed(component_checks.attention_reference)


@pytest.mark.parametrize("norm, name", [(LayerNorm, "LayerNorm statistics"), (RMSNorm, "RMSNorm statistics")])
def test_a_norm_that_does_not_fails(monkeypatch, norm, name):
    monkeypatch.setattr(norm, "forward", lambda self, x: x / x.flatten().norm() * x.numel() ** 0.5)
    assert failed(component_checks.norm_statistics) == [name]


@pytest.mark.parametrize("broken", [lambda x, tables: x * tables[0], lambda x, tables: x], ids=["half", "none"])
def test_positions_that_are_not_relative_fail(monkeypatch, broken):
    monkeypatch.setattr(component_checks, "rotate", broken)
    assert failed(component_checks.rotary_relativity)


def test_positions_that_restart_behind_the_cache_fail(monkeypatch):
    tables = positional.Rotary.forward

    def restarted(self, places):
        return tables(self, slice(places.stop - places.start) if isinstance(places, slice) else places)

    monkeypatch.setattr(positional.Rotary, "forward", restarted)
    assert failed(component_checks.cached_decoding)


def test_a_checkpoint_that_loses_a_bit_fails(monkeypatch):
    put_weights = checkpoint.put_weights

    def lossy(model, weights, where):
        put_weights(model, weights | {"head.weight": weights["head.weight"].bfloat16()}, where)

    monkeypatch.setattr(checkpoint, "put_weights", lossy)
    assert failed(component_checks.checkpoint_round_trip)


def test_a_kernel_that_is_wrong_in_float32_fails_parity(monkeypatch):
    def inexact(q, *args, **options):
        y = SDPA(q, *args, **options)
        return y if q.dtype == torch.float64 else y * 1.5

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", inexact)
    assert failed(component_checks.device_parity) == ["loss parity", "gradient parity"]


def test_a_kernel_that_is_wrong_at_the_second_shape_fails_parity(monkeypatch):
    shapes = set()
    whole = gpt.Block.forward

    def stale(self, x, *args):
        if x.dtype == torch.float32:
            shapes.add(x.shape)
        y = whole(self, x, *args)
        return y if len(shapes) < 2 else y.roll(1, dims=0)

    monkeypatch.setattr(gpt.Block, "forward", stale)
    assert failed(component_checks.device_parity)


def test_a_row_that_sees_the_padding_of_a_longer_one_fails(monkeypatch):
    reserve = KVCache.reserve

    def careless(self, count):
        places = reserve(self, count)
        if isinstance(places, torch.Tensor):
            self.visible = torch.ones_like(self.visible)
        return places

    monkeypatch.setattr(KVCache, "reserve", careless)
    assert failed(component_checks.cached_decoding)
