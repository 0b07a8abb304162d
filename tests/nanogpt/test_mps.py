"""What is particular to MPS, as far as a machine without one can show it: no operator of a step is left to the CPU, the
written-out attention is the kernel's, and what is chosen there is what a measurement says."""

import re
from collections import Counter
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from nanogpt.config import Config, DeviceConfig
from nanogpt.faults import DeviceError
from nanogpt.measure import profiler
from nanogpt.measure.real_step import RealStep
from nanogpt.model import attention
from nanogpt.model.attention import KVCache, attend_by_products
from nanogpt.results.speed import StepSpeed
from nanogpt.training import numerics

COMPOSED = {"CompositeExplicitAutograd", "CompositeImplicitAutograd", "CompositeExplicitAutogradNonFunctional"}


def kernels() -> dict[str, set[str]]:
    """{operator: dispatch keys with a kernel}, as torch's own table of native functions says; structured ones take
    those of what they delegate to, and one without any is composed of others."""
    table = Path(str(find_spec("torchgen").origin)).parent / "packaged/ATen/native/native_functions.yaml"
    keys, delegates = {}, {}
    for entry in re.split(r"\n(?=- func: )", table.read_text(encoding="utf-8"))[1:]:
        name = "aten::" + re.match(r"- func: ([\w.]+)\(", entry)[1]
        dispatch = re.search(r"\n  dispatch:\n((?:    .*\n?)+)", entry)
        lines = [line for line in dispatch[1].splitlines() if "#" not in line.split(":")[0]] if dispatch else []
        keys[name] = {key.strip() for line in lines for key in line.split(":")[0].split(",")}
        if delegate := re.search(r"\n  structured_delegate: ([\w.]+)", entry):
            delegates[name] = f"aten::{delegate[1]}"
    for name, delegate in delegates.items():
        keys[name] |= keys[delegate]
    return {name: found or {"CompositeImplicitAutograd"} for name, found in keys.items()}


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count[operator.name()] += 1
        return operator(*args, **(kwargs or {}))


def as_on_mps(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False):
    """While it trains, torch composes it there of what it is (pytorch #179294)."""
    return torch.ops.aten._scaled_dot_product_attention_math(q, k, v, attn_mask, dropout_p, is_causal)[0]


def operators_of_a_step(monkeypatch, path: str = "sdpa", mixed: bool | str = False, **changes) -> Counter:
    """Of a training step, an evaluation and two decoded tokens, without what is written for CPUs alone."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # the CPU's own kernels are not taken then
    monkeypatch.setattr(F, "scaled_dot_product_attention", as_on_mps)
    config = Config(
        model={"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 30, **changes},
        training={"batch_size": 2, "optimizer": "muon", "weight_decay": 0.1, "weight_average": 0.9},
        device={"attention": path, "mixed_precision": mixed},
        data={"cross_documents": path == "sdpa"},
    )
    real = RealStep(config, "cpu", "bfloat16" if mixed else "float32")
    with Operators() as seen:
        real.run()
        real.optimizer.scale_gradients(0.5)
        with torch.no_grad():
            tokens, targets = real.feed.take((0, 2))
            real.model.loss_sum(tokens, targets)
            cache = KVCache(config.model)
            real.model(tokens[:1, :4], cache=cache)
            real.model(tokens[:1, :1], cache=cache)
    return seen.count


@pytest.mark.parametrize("preset, mixed, path", [("modern", True, "sdpa"), ("gpt2", False, "products")])
def test_every_operator_of_a_step_has_a_kernel_for_mps_or_is_composed_of_such(monkeypatch, preset, mixed, path):
    known = kernels()
    assert known["aten::_cudnn_rnn"] == {"CUDA"}  # so one without would be found
    seen = operators_of_a_step(monkeypatch, path, mixed, preset=preset, dropout=0.1 if preset == "gpt2" else 0.0)
    aten = [name for name in seen if name.startswith("aten::")]
    assert len(aten) > 40  # so the mode has seen the step
    assert [name for name in aten if not known[name] & (COMPOSED | {"MPS"})] == []


@settings(max_examples=20)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 9), st.sampled_from([2, 8]), st.booleans())
def test_attention_written_out_is_the_kernels(batch, heads, length, width, documents):
    generator = torch.Generator().manual_seed(length)
    q, k, v = torch.randn(3, batch, heads, length, width, generator=generator, dtype=torch.float64).requires_grad_()
    visible = torch.ones(batch, 1, length, length, dtype=torch.bool).tril()
    visible[:, :, length // 2 :, : length // 2] = False  # two documents
    mask = visible if documents else None
    mine, theirs = (
        attend_by_products(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
    )  # fmt: skip
    torch.testing.assert_close(mine, theirs)
    for one, other in zip(
        torch.autograd.grad(mine.sin().sum(), (q, k, v)), torch.autograd.grad(theirs.sin().sum(), (q, k, v)),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(one, other)


def test_where_torchs_kernel_may_show_the_future_it_is_not_asked():
    def asked(device: str, dtype: torch.dtype) -> bool:
        return attention._leaks(SimpleNamespace(device=torch.device(device), dtype=dtype))

    assert not asked("mps", torch.bfloat16)  # with gradients torch composes it
    with torch.no_grad():
        assert asked("mps", torch.bfloat16) and asked("mps", torch.float16)
        assert not asked("mps", torch.float32) and not asked("cuda", torch.bfloat16)


# ---- what is chosen, on pretended chips: milliseconds a step by setting, and what they refuse

REFUSED = DeviceError("mps in float16 does not compute what the CPU does: loss off by 3.0e-01 (limit 0.001)")
CHIPS = {  # each name says what its chip is good at; no figure is one of a Mac
    "emulates bfloat16": ({False: 100, True: 130, "float16": 80}, {"float16": 79}, {"products": 78}),
    "gains nothing by half": ({False: 100, True: 99, "float16": 98}, {"bfloat16": 99}, {"products": 70}),
    "multiplies bfloat16": ({False: 100, True: 70, "float16": REFUSED}, {"bfloat16": 60}, {"products": 65}),
}
TAKEN = {
    "emulates bfloat16": ("float16", "float32", "sdpa"),
    "gains nothing by half": (False, "float32", "products"),
    "multiplies bfloat16": (True, "bfloat16", "sdpa"),
}


@pytest.mark.parametrize("chip", CHIPS)
def test_each_setting_is_what_a_measurement_says_and_only_where_it_gains(monkeypatch, chip):
    by_precision, by_orthogonalisation, by_attention = CHIPS[chip]
    tried = []

    def measured(config, seconds, checked=False):
        device = config.device
        tried.append(device)
        cost = by_precision[device.mixed_precision]
        if isinstance(cost, Exception):
            assert checked
            raise cost
        ms = by_attention.get(device.attention) or by_orthogonalisation.get(device.newton_schulz) or cost
        assert checked or len(tried) == 1  # all but the plainest are compared with the CPU
        return speed(device, ms / 1e3)

    monkeypatch.setattr(profiler, "measure_speed", measured)
    config = Config(model={"dropout": 0.0}, training={"optimizer": "muon"}).model_dump()
    chosen = profiler.choose_precision_and_threads(config, "mps", 6.0)
    assert (chosen.mixed_precision, chosen.newton_schulz, chosen.attention) == TAKEN[chip]
    assert len(tried) == 6 and [choice.setting for choice in chosen.choices] == list(profiler.OPEN_ON_MPS)
    if chip == "multiplies bfloat16":
        assert str(chosen.choices[0]) == (
            f"mixed_precision bfloat16: 70.0 ms a step, float32 100.0; float16 refused: {REFUSED}"
        )
    pinned = Config.model_validate(config).with_changes(
        {"device.attention": "sdpa", "device.mixed_precision": False, "training.optimizer": "adamw"}
    )
    tried.clear()
    assert profiler.choose_precision_and_threads(pinned.model_dump(), "mps", 6.0).choices == [] and len(tried) == 1


def speed(device, seconds: float) -> StepSpeed:
    return replace(
        StepSpeed(1.0, 1.0, 1.0, 1.0, None, 1, seconds, 1, device.mixed_precision, "", "mps", 1, 3),
        attention=device.attention, newton_schulz=device.newton_schulz,
    )  # fmt: skip


def test_a_training_goes_on_as_it_began_and_an_old_checkpoint_by_torchs_attention():
    old = {"device": "cpu", "precision": "float32", "newton_schulz": "bfloat16", "threads": 1}
    wanted = DeviceConfig(type="cpu", threads=torch.get_num_threads())
    went_on, _ = numerics.choose(wanted, old)
    assert (went_on.attention, went_on.newton_schulz) == ("sdpa", "bfloat16")
    began, _ = numerics.choose(wanted.model_copy(update={"attention": "products", "newton_schulz": "float16"}), {})
    again, _ = numerics.choose(wanted, asdict(began))
    assert (again.attention, again.newton_schulz) == ("products", "float16") and not again.differences(asdict(began))
    assert went_on.differences(asdict(began))["attention"] == "products -> sdpa"
