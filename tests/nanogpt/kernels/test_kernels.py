"""Training by the kernels: torch's own results in float64 to rounding, the same bits by any number of threads."""

import copy
import os
import platform
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import cycle
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.config import Config, ModelConfig
from nanogpt.kernels import functions, library, operations, whole_block
from nanogpt.model.gpt import GPT
from nanogpt.native.c_source import find_compiler
from nanogpt.native.unavailable import Unavailable
from nanogpt.training import numerics as numerical
from tests.sources import CHECKOUT

try:
    KERNELS = library.load()
except Unavailable as reason:
    pytest.skip(f"no kernels: {reason}", allow_module_level=True)

ROUNDING = {"float32": 5e-5, "bfloat16": 0.15}  # of a gradient, relative to its norm
SEEDS = (3, 2**63 - 5)  # of dropout
LEAST_SHARE = {"float32": 0.01, "bfloat16": 0.2}  # of the largest norm: what is smaller is compared with that


@st.composite
def shapes(draw) -> ModelConfig:
    heads, shared, head_dim = draw(st.sampled_from([(1, 1, 8), (2, 2, 16), (4, 2, 24), (3, 3, 32), (2, 1, 66)]))
    return ModelConfig(
        preset=draw(st.sampled_from(["modern", "gpt2"])),
        n_layer=1,
        n_head=heads,
        n_kv_head=shared,
        n_embd=heads * head_dim,
        ffn_dim=draw(st.integers(1, 70)),
        activation=draw(st.sampled_from(["gelu", "gelu_erf", "relu2", "swiglu"])),
        bias=draw(st.booleans()),
        block_size=70,
        vocab_size=draw(st.integers(2, 40)),
        rope_theta=100,
        zero_init=False,
        dropout=draw(st.sampled_from([0.0, 0.3])),
    )


def drawn(config: ModelConfig) -> GPT:
    """A model whose every parameter matters."""
    model = GPT(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + (parameter.dim() < 2))
    return model


def computed(model: GPT, tokens: torch.Tensor, precision: str) -> dict[str, torch.Tensor]:
    """The loss and the gradients, in float64."""
    context = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()
    targets = tokens.roll(-1, dims=1).clone()
    targets[:, -1] = -1
    with context:
        loss, count = model.loss_sum(tokens, targets)
    model.zero_grad()
    (loss / count).backward()
    gradients = {name: parameter.grad.double() for name, parameter in model.named_parameters()}
    return {"loss": loss.detach().double(), **gradients}


@st.composite
def even_shapes(draw) -> ModelConfig:
    """Of which bfloat16 products can be the kernels' own: matrices in multiples of 16."""
    shape = draw(shapes())
    heads, shared = draw(st.sampled_from([(2, 2), (4, 2), (6, 1)]))
    width, ffn_dim = 16 * draw(st.integers(1, 5)), 16 * draw(st.integers(1, 9))
    changes = {"n_head": heads, "n_kv_head": shared, "head_dim": 16, "n_embd": width, "ffn_dim": ffn_dim}
    return shape.model_copy(update=changes)


@pytest.mark.skipif(KERNELS.product_is_fast(True) == 0, reason="no bfloat16 instructions")
@given(even_shapes(), st.integers(1, 30), st.sampled_from([8, 24, 64]))
@settings(max_examples=25, deadline=None)
def test_bfloat16_by_own_products_is_as_near_as_by_torchs(config, B, T):
    model, tokens = drawn(config), torch.randint(config.vocab_size, (B, T), generator=torch.Generator().manual_seed(T))
    with dropping_as_the_kernels_do():
        exact = computed(copy.deepcopy(model).double(), tokens, "float32")
    model.use_kernels()
    attention, feedforward = model.layers[0].attention, model.layers[0].feedforward
    matrices = [each.weight for each in (attention.qkv, attention.output, feedforward.up, feedforward.down)]
    errors = []
    for who in (library.OWN, library.TORCHS):
        with products_by(who), dropping_as_the_kernels_do():
            assert whole_block.is_possible(torch.empty(B, T, 1), torch.bfloat16, matrices) == (who == library.OWN)
            found = computed(model, tokens, "bfloat16")
        errors.append({name: (value - exact[name]).norm() for name, value in found.items()})
    for name, of_torch in errors[1].items():
        assert errors[0][name] < 1.5 * of_torch + 0.02 * max(exact[name].norm(), exact["loss"]), name


@pytest.mark.parametrize(
    "precision, products",
    [("float32", library.OWN), ("float32", library.MKLS), ("float32", library.TORCHS), ("bfloat16", library.TORCHS)],
)
@given(shapes(), st.integers(1, 3), st.integers(2, 70))
@settings(max_examples=25, deadline=None)
def test_loss_and_gradients_are_torchs_to_rounding(precision, products, config, B, T):
    by_torch = drawn(config)
    by_kernels = copy.deepcopy(by_torch)
    by_kernels.use_kernels()
    tokens = torch.randint(config.vocab_size, (B, T), generator=torch.Generator().manual_seed(T))
    with dropping_as_the_kernels_do():
        by_products = computed(by_torch, tokens, precision)  # torch's own rounding: of some draws little is left
        exact = computed(by_torch.double(), tokens, "float32")
        with products_by(products):
            found = computed(by_kernels, tokens, precision)
    scale = max(gradient.norm() for name, gradient in exact.items() if name != "loss")
    for name, value in found.items():
        size = max(exact[name].norm(), LEAST_SHARE[precision] * scale)
        error, of_torch = ((each - exact[name]).norm() / size for each in (value, by_products[name]))
        assert error < max(ROUNDING[precision], 3 * of_torch), (name, float(error), float(of_torch))


@contextmanager
def dropping_as_the_kernels_do():
    """torch's functions drop what the kernels drop in a model of one layer."""
    parts = cycle([0, 0, 1])  # of the embedding, of attention and of the feed-forward

    def dropped(x: torch.Tensor, share: float, training: bool = True) -> torch.Tensor:
        ones = torch.ones(x.size(0) * x.size(1), x.size(2))
        return x * operations.drop(ones, None, operations.Dropout(share, SEEDS), next(parts)).view(x.shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "dropout", dropped)
        patch.setattr(operations.Dropout, "drawn", lambda share: operations.Dropout(share, SEEDS) if share else None)
        yield


@given(st.sampled_from([0.0, 0.01, 0.1, 0.2, 0.5, 0.9]), st.integers(0, 2**63 - 1), st.sampled_from([1, 16, 100, 129]))
@settings(max_examples=50, deadline=None)
def test_dropout_drops_its_share_anywhere_and_scales_the_rest(share, seed, width):
    rows, scale = 40_000 // width, 1 / (1 - share)
    x, bias = torch.ones(rows, width), torch.full((width,), 2.0)
    first, second = (operations.drop(x, bias, operations.Dropout(share, (seed, seed + 1)), part) for part in (0, 1))
    spread = 6 * (share * (1 - share) / x.numel()) ** 0.5  # six standard deviations
    kept = [(each != 0).double() for each in (first, second)]
    assert all(torch.isclose(each[each != 0], torch.tensor(3 * scale)).all() for each in (first, second))
    assert all(abs(each.mean() - (1 - share)) <= spread for each in kept)
    neighbours = (kept[0], kept[1]), (kept[0].flatten()[1:], kept[0].flatten()[:-1]), (kept[0][1:], kept[0][:-1])
    for one, other in neighbours:  # of two numbers each is dropped whether the other is or not
        assert abs(((one - (1 - share)) * (other - (1 - share))).mean()) <= spread + 1e-9


@contextmanager
def products_by(who: str):
    """Products of float32 in blocks are computed by one of library's three."""
    KERNELS.set_blas(library.blas_of_torch() if who == library.MKLS else None)
    with pytest.MonkeyPatch.context() as patch:
        changed = replace(KERNELS, products=who, half_products=library.OWN if who == library.OWN else library.TORCHS)
        patch.setattr(whole_block, "load", lambda: changed)
        yield
    KERNELS.set_blas(library.blas_of_torch() if KERNELS.products == library.MKLS else None)


def own_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    c = torch.empty(a.size(0), b.size(1))
    pointers = [(tensor.data_ptr(), *tensor.stride()) for tensor in (a, b)]
    KERNELS.product(*pointers[0], *pointers[1], c.data_ptr(), a.size(0), b.size(1), a.size(1))
    return c


@given(st.integers(1, 900), st.integers(1, 70), st.integers(1, 900), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_own_products_are_torchs_to_rounding_wherever_the_numbers_are(rows, columns, depth, a_across, b_across):
    draw = torch.Generator().manual_seed(depth)
    a = torch.randn(depth, rows, generator=draw).t() if a_across else torch.randn(rows, depth, generator=draw)
    b = torch.randn(columns, depth, generator=draw).t() if b_across else torch.randn(depth, columns, generator=draw)
    exact = a.double() @ b.double()
    assert (own_product(a, b) - exact).abs().max() < 2e-6 * depth**0.5 * (1 + exact.abs().max())


@pytest.mark.parametrize("half", [False, True])
def test_a_whole_block_is_the_same_bits_by_any_number_of_threads(half):
    if half and not KERNELS.product_is_fast(True):
        pytest.skip("no bfloat16 instructions")
    model, found = drawn(ModelConfig(n_layer=1, n_head=2, n_embd=48, block_size=40, vocab_size=9)), []
    model.use_kernels()
    block, x = model.layers[0], torch.randn(5, 40, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with products_by(library.OWN), torch.autocast("cpu", torch.bfloat16, enabled=half):
                assert whole_block.is_possible(x, functions.product_type(), [block.attention.qkv.weight])
                y = block(x, model.rotary(slice(0, 40)), None)
                found.append([y, *torch.autograd.grad(y.square().sum(), [x, *block.parameters()])])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for others in found[1:] for one, other in zip(found[0], others, strict=True))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flag is of x86-64's compilers")
def test_registers_that_hold_fewer_numbers_compute_the_same(tmp_path):
    """Most processors of laptops have AVX2 alone, with which numbers are taken by eight instead of sixteen."""
    environment = os.environ | {"NANOGPT_CACHE": str(tmp_path), "CC": "cc -mno-avx512f"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "rounding or bit"]
    ran = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


def test_only_the_gradients_that_are_asked_for_are_computed():
    frozen = drawn(ModelConfig(preset="gpt2", n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=5))
    frozen.use_kernels()
    free, tokens = copy.deepcopy(frozen), torch.zeros(2, 8, dtype=torch.int64)
    kept = [name for name, _ in frozen.named_parameters() if "up" in name or "output.bias" in name]
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_(name in kept)
    for model in (frozen, free):
        model.loss_sum(tokens, tokens)[0].backward()
    whole = dict(free.named_parameters())
    for name, parameter in frozen.named_parameters():
        assert torch.equal(parameter.grad, whole[name].grad) if name in kept else parameter.grad is None


def test_the_number_of_threads_changes_no_bit():
    draw = torch.Generator().manual_seed(0)
    weight, x, qkv, logits = (torch.randn(shape, generator=draw) for shape in ((64,), (300, 64), (300, 192), (300, 70)))
    heads = operations.Heads(5, 60, 4, 4, 16, None, weight[:16], weight[16:32], 1e-6, None, None)

    def everything() -> list[torch.Tensor | None]:
        normed = operations.norm(x, None, None, weight, None, 1e-6, True, torch.float32)
        mixed, logs = operations.attend(qkv, heads)
        losses = operations.cross_entropy(logits.clone(), torch.arange(300) % 70)
        slopes = qkv.clone()
        active = operations.activate(slopes, None, "swiglu")
        back = (
            *operations.norm_back(x, normed, weight, True),
            *operations.attend_back(mixed, qkv, logs, heads),
            *operations.activate_back(active, slopes, True, "swiglu"),
        )
        products = own_product(qkv, x[:192]), own_product(qkv[:299].t(), x[:299])
        return [normed.y, mixed, losses, active, slopes, operations.column_sums(qkv), *products, *back]

    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(everything())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for others in found[1:] for one, other in zip(found[0], others, strict=True))


def test_attention_uses_no_more_threads_than_it_has_memory_for(monkeypatch):
    """A pool whose size torch does not know, such as a second OpenMP library's, would write beyond the end."""
    heads, before = operations.Heads(8, 40, 1, 1, 8, None, None, None, 0.0, None, None), torch.get_num_threads()
    used = library.load().attention_scratch(40, 8)
    memory = torch.full((3 * used,), -7.0)
    monkeypatch.setattr(
        operations.torch, "empty", lambda *size, _of=torch.empty: memory if size == (used,) else _of(*size)
    )
    qkv = torch.randn(8 * 40, 24, generator=torch.Generator().manual_seed(0))
    try:
        torch.set_num_threads(3)
        monkeypatch.setattr(operations.torch, "get_num_threads", lambda: 1)
        y, logs = operations.attend(qkv, heads)
        operations.attend_back(y, qkv, logs, heads)
    finally:
        torch.set_num_threads(before)
    assert (memory[:used] != -7).any() and (memory[used:] == -7).all()


def test_the_threads_are_those_that_torch_calls(tmp_path):
    """A library that was loaded before torch, as Intel's guide has it, takes torch's calls: it has the pool."""
    source, built = tmp_path / "other.c", tmp_path / "libother.so"
    source.write_text(
        "void GOMP_parallel(void (*f)(void *), void *data, unsigned n, unsigned flags) { f(data); }\n"
        "int omp_get_thread_num(void) { return 0; }\nint omp_get_num_threads(void) { return 1; }\n"
    )
    subprocess.run([*find_compiler(), "-shared", "-fPIC", "-o", built, source], check=True)
    program = (
        "import ctypes; from nanogpt.kernels import library; found = library._threads_of_torch(); "
        f"other = ctypes.CDLL({str(built)!r}); "
        "print(found == [ctypes.cast(getattr(other, name), ctypes.c_void_p).value for name in library.OPENMP])"
    )
    command, environment = [sys.executable, "-c", program], os.environ | {"LD_PRELOAD": str(built)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True"


@pytest.mark.parametrize(
    "setting", [{"OMP_THREAD_LIMIT": "1"}, {"OMP_DYNAMIC": "true", "OMP_NUM_THREADS": "64"}, {"OMP_STACKSIZE": "64k"}]
)
def test_what_a_person_has_set_for_openmp_spoils_no_training(setting):
    """torch's products in bfloat16 were wrong by any amount where there were fewer threads, and the kernels needed more
    stack."""
    program = (
        "import nanogpt, torch\n"
        "from nanogpt.kernels import library\n"
        "from nanogpt.kernels.operations import pointer\n"
        "torch.set_num_threads(max(2, torch.get_num_threads()))\n"
        "a, b = torch.randn(256, 768).bfloat16(), torch.randn(768, 3072).bfloat16()\n"
        "c, exact = torch.empty(256, 3072), a.float() @ b.float()\n"
        "for _ in range(5): assert (torch.mm(a, b).float() - exact).abs().max() < 1\n"
        "library.load().product(pointer(a.float()), 768, 1, pointer(b.float()), 3072, 1, pointer(c), 256, 3072, 768)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, env=os.environ | setting, check=True)


def test_layernorm_of_numbers_far_from_zero_in_a_width_that_fills_no_register():
    for x in (torch.full((2, 19), 12345.678), 3000 + torch.randn(2, 19, generator=torch.Generator().manual_seed(0))):
        found = operations.norm(x, None, None, None, None, 1e-5, True, torch.float32).y
        exact = F.layer_norm(x.double(), (19,))
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-3 if x.std() else 0.5)


def test_gradients_and_targets_may_be_one_number_for_all():
    """Expanded tensors have one number in memory, of which kernels would read thousands."""
    by_torch = drawn(ModelConfig(n_layer=1, n_head=1, n_embd=16, block_size=8, vocab_size=5))
    by_kernels = copy.deepcopy(by_torch)
    by_kernels.use_kernels()
    tokens, target = torch.zeros(2, 8, dtype=torch.int64), torch.tensor(3)
    for model in (by_torch, by_kernels):
        model.hidden(tokens).sum().backward()
        model.loss_sum(tokens, target.expand(2, 8))[0].backward()
        x = model.embed(tokens, slice(0, 8)).detach().requires_grad_()
        model.layers[0](x, model.rotary(slice(0, 8)), None).sum().backward()
    for (name, exact), found in zip(by_torch.named_parameters(), by_kernels.parameters(), strict=True):
        torch.testing.assert_close(found.grad, exact.grad, rtol=1e-3, atol=1e-3, msg=name)
    assert operations.cross_entropy(torch.empty(0, 5), torch.empty(0, dtype=torch.int64)).shape == (0,)


def test_a_target_beyond_the_vocabulary_is_refused():
    model = drawn(ModelConfig(n_layer=1, n_head=1, n_embd=16, block_size=8, vocab_size=5))
    model.use_kernels()
    with pytest.raises(IndexError, match="target 5 is beyond the vocabulary of 5"):
        model.loss_sum(torch.zeros(1, 8, dtype=torch.int64), torch.full((1, 8), 5))


@pytest.mark.parametrize("attention", ["products", "sdpa"])
def test_another_attention_that_is_asked_for_is_not_ignored_without_a_word(attention):
    wanted = Config(device={"attention": attention}).device
    name, warning = numerical.choose_kernels(wanted, "cpu", "float32")
    assert name == KERNELS.name
    assert warning == f"device.attention {attention} is not followed by the kernels; device.kernels=torch follows it"
    by_torch = wanted.model_copy(update={"kernels": "torch"})
    assert numerical.choose_kernels(by_torch, "cpu", "float32") == ("torch", "")


def test_who_waits_for_them_to_be_built_is_told_and_nobody_else(tmp_path):
    quick = tmp_path / "quick"
    quick.write_text('#!/bin/sh\nexec cc "$@" -O0\n')
    quick.chmod(0o755)
    program = "from nanogpt.kernels import library; library.load(); library.load()"
    environment = os.environ | {"NANOGPT_CACHE": str(tmp_path / "cache"), "CC": str(quick)}
    said = [
        subprocess.run(
            [sys.executable, "-c", program], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True
        ).stderr
        for _ in range(2)
    ]
    assert said == [f"Building the kernels for this processor (once, about {library.SOURCE.seconds} s)…\n", ""]


def test_their_name_says_what_decides_their_bits(monkeypatch):
    """Checkpoints name them."""
    again = library.load.__wrapped__
    assert again().name == KERNELS.name
    other = {library.OWN: library.MKLS, library.MKLS: library.TORCHS, library.TORCHS: library.OWN}[KERNELS.products]
    with monkeypatch.context() as changed:
        changed.setattr(library, "_choose_products", lambda functions: (other, KERNELS.half_products))
        assert again().name != KERNELS.name
    with_other_flags = replace(library.SOURCE.build(), identity="built with other flags")
    monkeypatch.setattr(library, "SOURCE", SimpleNamespace(build=lambda notify: with_other_flags))
    assert again().name != KERNELS.name


def test_a_training_keeps_to_what_it_began_with(monkeypatch):
    """The manifest of a checkpoint from before the kernels says nothing of them."""
    wanted, old = Config().device, {"device": "cpu", "precision": "float32", "newton_schulz": "float32"}
    fresh, warning = numerical.choose(wanted.model_copy(update={"type": "cpu"}), {})
    assert (fresh.kernels, warning) == (KERNELS.name, "")
    kept = [
        numerical.choose_kernels(wanted, "cpu", "float32", before)[0]
        for before in (old, old | {"kernels": "torch"}, old | {"kernels": "c-of another machine"})
    ]
    assert kept == ["torch", "torch", KERNELS.name]
    assert "kernels" not in fresh.differences(old | {"kernels": KERNELS.name})
    assert fresh.differences(old | {"kernels": "c-before"})["kernels"] == f"c-before -> {KERNELS.name}"

    def no_compiler():
        raise Unavailable("no C compiler (cc, gcc, clang) is installed")

    monkeypatch.setattr(library, "load", no_compiler)
    without = numerical.choose_kernels(wanted, "cpu", "float32")
    assert without == ("torch", "training by torch's operators alone: no C compiler (cc, gcc, clang) is installed")
