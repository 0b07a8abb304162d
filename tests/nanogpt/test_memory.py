"""The prediction of memory: what autograd keeps, what torch allocates, what a process takes, and how it grows."""

import json
from contextlib import closing
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt import device as devices
from nanogpt.config import Config, load_config
from nanogpt.measure import memory
from nanogpt.measure.activations import Kept
from nanogpt.measure.batch_finder import SeparateProcess
from nanogpt.measure.real_step import RealStep
from nanogpt.model import gpt
from nanogpt.model.gpt import GPT
from nanogpt.units import MIB
from tests.nanogpt.model_case import small
from tests.nanogpt.training_case import tiny

CONFIGS = Path(__file__).parents[2] / "configs"
ROWS = 5
LIBRARIES_VARY_BY = 12 * MIB  # from processor to processor: micro in float32 8 with AVX2, 2 on an Intel Xeon (measured)


def shape(preset: str = "modern", **options):
    return small(preset, **{"n_embd": 64, "block_size": 64, "vocab_size": 96, **options})


SHAPES = {
    "modern": shape(),
    "modern, dropout": shape(dropout=0.1),
    "modern, shared keys": shape(n_kv_head=2),
    "modern, long window": shape(block_size=640),
    "modern, no norm of queries": shape(qk_norm=False),
    "gpt2": shape("gpt2"),
    "gpt2, dropout": shape("gpt2", dropout=0.1),
    "gpt2, shared keys": shape("gpt2", n_kv_head=1),
    "relu2": shape(activation="relu2", head_dim=32),
}  # fmt: skip


def of_tensors(moment: memory.Moment) -> int:
    """Bytes that torch counts as allocated."""
    return moment.total - sum(moment.parts.get(part, 0) for part in (memory.LIBRARIES, memory.ALLOCATOR))


def really_kept(model_config, precision: str, by_kernels: bool = False) -> dict[str, int]:
    """Bytes of each storage that autograd keeps, by the part of the model that was computing."""
    torch.manual_seed(0)
    model = GPT(model_config).train()
    tokens = torch.randint(model_config.vocab_size, (ROWS, model_config.block_size))
    known = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers(), tokens]}
    part, kept, alive = "embedding", {}, []

    def enter(name):
        def hook(*_):
            nonlocal part
            part = name

        return hook

    def pack(tensor):
        storage = tensor.untyped_storage()
        is_weight = tensor.dim() == 2 and tokens.numel() not in tensor.shape and tensor.dtype != torch.float32
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            alive.append(storage)
            name = "weight copies" if is_weight else part
            kept[name] = kept.get(name, 0) + storage.nbytes()
        return tensor

    if by_kernels:  # where nobody watches the parts
        model.use_kernels()
    else:
        for block in model.blocks:
            block.attention_norm.register_forward_pre_hook(enter("attention"))
            block.feedforward_norm.register_forward_pre_hook(enter("feed-forward"))
        model.final_norm.register_forward_pre_hook(enter("final norm"))
    model.head.register_forward_hook(enter("logits"))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), devices.autocast("cpu", precision):
        model.loss_sum(tokens, tokens)
    return kept


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", SHAPES.values(), ids=SHAPES)
def test_each_part_keeps_what_is_predicted(model, precision):
    kept = Kept(model, "cpu", memory.FLOAT32 if precision == "float32" else 2)
    tokens = ROWS * model.block_size
    predicted = {
        "attention": model.n_layer * (kept.attention * tokens + kept.rotary_tables),
        "feed-forward": model.n_layer * kept.feedforward * tokens,
        "final norm": kept.final_norm * tokens, "embedding": kept.embedding * tokens,
    }  # fmt: skip
    really = really_kept(model, precision)
    for part, expected in predicted.items():
        assert really.get(part, 0) == pytest.approx(expected, rel=0.05, abs=1), part
    assert really["logits"] == pytest.approx(kept.product * tokens * model.vocab_size, rel=0.01)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [name for name, model in SHAPES.items() if not model.dropout])
def test_a_block_of_the_kernels_keeps_what_is_predicted(name, precision):
    model = SHAPES[name]
    kept = Kept(model, "cpu", memory.FLOAT32 if precision == "float32" else 2, fused=True)
    of_a_token = kept.embedding + kept.final_norm + model.n_layer * (kept.attention + kept.feedforward)
    predicted = ROWS * model.block_size * (of_a_token + kept.product * model.vocab_size)  # the logits too
    really = really_kept(model, precision, by_kernels=True)
    assert sum(really.values()) - really.get("weight copies", 0) == pytest.approx(predicted, rel=0.02)
    assert not kept.rotary_tables


@st.composite
def trainings(draw) -> Config:
    """Everything that decides whether the kernels compute a block."""
    heads, head_dim = draw(st.sampled_from([(2, 8), (4, 8), (1, 256), (1, 258)]))
    model = shape(
        draw(st.sampled_from(["modern", "gpt2"])), n_layer=1, n_head=heads, n_kv_head=draw(st.sampled_from([1, heads])),
        n_embd=heads * head_dim, block_size=8, qk_norm=draw(st.booleans()), bias=draw(st.booleans()),
        activation=draw(st.sampled_from(["gelu", "relu2", "swiglu"])), dropout=draw(st.sampled_from([0.0, 0.1])),
    )  # fmt: skip
    adapted = {"lora_rank": 2, "init_from": "a model"} if draw(st.booleans()) else {}
    compiled, recomputed, cross_documents = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    kernels = draw(st.sampled_from(["auto", "torch"]))
    device = dict(compile=compiled, kernels=kernels, gradient_checkpointing=recomputed)
    training = dict(batch_size=2, gradient_accumulation=1, **adapted)
    return Config(model=model, training=training, data=dict(cross_documents=cross_documents), device=device)


@given(trainings(), st.sampled_from(["float32", "bfloat16", "float16"]))
@settings(max_examples=100)
def test_the_blocks_that_the_kernels_compute_are_those_of_which_it_is_predicted(config, precision):
    by_torch = config.with_changes({"device.kernels": "torch"})
    predicted = memory.predict(config, precision=precision) != memory.predict(by_torch, precision=precision)
    real, computed = RealStep(config, "cpu", precision), []
    tokens, targets = real.feed.take((0, 2))
    with pytest.MonkeyPatch.context() as patch, devices.autocast("cpu", precision):
        apply = gpt.FusedBlock.apply
        patch.setattr(gpt.FusedBlock, "apply", lambda *arguments: computed.append("a block") or apply(*arguments))
        real.model.loss_sum(tokens, targets)
    assert bool(computed) == predicted


def allocated_peak(config: Config, precision: str, path: Path) -> int:
    """Bytes of tensors at the fullest moment of two steps, by torch's own count."""
    torch.ones(8) @ torch.ones(8, 8)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as recorded:
        real = RealStep(config, "cpu", precision)
        for _ in range(2):
            real.run()
    recorded.export_chrome_trace(str(path))
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    before = events[0]["args"]["Total Allocated"] - events[0]["args"]["Bytes"]
    return max(event["args"]["Total Allocated"] for event in events) - before


@pytest.mark.parametrize("passes, recompute", [(1, False), (3, False), (1, True), (3, True)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernels", ["torch", "auto"])
def test_the_fullest_moment_of_a_step_holds_what_is_predicted(passes, recompute, precision, kernels, tmp_path):
    config = Config(
        model=dict(n_layer=4, n_head=4, n_embd=128, block_size=128, vocab_size=256),
        training=dict(batch_size=4, gradient_accumulation=passes),
        device=dict(gradient_checkpointing=recompute, kernels=kernels),
    )
    native = memory.likely_precision("cpu")
    predicted = memory.predict(config, precision=precision, newton_schulz=native)
    expected = max(of_tensors(predicted.passes), of_tensors(predicted.moment("update")))
    assert allocated_peak(config, precision, tmp_path / "trace.json") == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("training", [dict(init_from="x", lora_rank=8), dict(optimizer="adamw", weight_average=0.9)])
def test_adapters_and_averages_hold_what_is_predicted(training, tmp_path):
    shape = dict(n_layer=4, n_head=4, n_embd=128, block_size=128, vocab_size=256)
    config = Config(model=shape, training=dict(batch_size=4, **training), device=dict(kernels="torch"))
    predicted = of_tensors(memory.predict(config).passes)
    assert allocated_peak(config, "float32", tmp_path / "trace.json") == pytest.approx(predicted, rel=0.12)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name, precision", [("micro", False), ("tiny_model", True)])
def test_a_process_takes_what_is_predicted(name, precision, recompute, tmp_path):
    config = load_config(CONFIGS / f"{name}.yaml").with_changes({
        "model.vocab_size": 66, "device.type": "cpu", "device.mixed_precision": precision,
        "device.gradient_checkpointing": recompute, "training.gradient_accumulation": 1,
    })  # fmt: skip
    log, target = tmp_path / "log", "tests.nanogpt.faulty_tries:ten_passes"
    with closing(SeparateProcess(log, target)) as separate:  # however slow: the heap grows over the first few
        measured = separate(config, config.training.batch_size, 300.0).peak_memory_bytes
    newton_schulz = memory.likely_precision("cpu")
    predicted = memory.predict(config, precision="bfloat16" if precision else "float32", newton_schulz=newton_schulz)
    of_step = max(predicted.passes.total, predicted.moment("update").total)  # no evaluation is made
    assert of_step == pytest.approx(measured, rel=0.18, abs=LIBRARIES_VARY_BY)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", [False, True])
def test_a_cuda_device_allocates_what_is_predicted(precision, tmp_path):
    config = load_config(CONFIGS / "small_model.yaml").with_changes({
        "model.vocab_size": 1024, "device.type": "cuda", "device.mixed_precision": precision,
    })  # fmt: skip
    with closing(SeparateProcess(tmp_path / "log")) as separate:
        measured = separate(config, config.training.batch_size, 2.0).peak_memory_bytes
    predicted = memory.predict(config, precision="bfloat16" if precision else "float32", device="cuda")
    assert predicted.total == pytest.approx(measured, rel=0.15)


# ---- how it grows

small_configs = st.builds(
    lambda layers, width, block, batch, passes, preset, optimizer, recompute: Config(
        model=dict(preset=preset, n_layer=layers, n_head=2, n_embd=16 * width, block_size=block, vocab_size=500),
        training=dict(batch_size=batch, gradient_accumulation=passes, optimizer=optimizer),
        device=dict(gradient_checkpointing=recompute),
    ),
    st.integers(1, 8), st.integers(1, 12), st.integers(8, 2048), st.integers(1, 64), st.integers(1, 4),
    st.sampled_from(["modern", "gpt2"]), st.sampled_from(["muon", "adamw"]), st.booleans(),
)  # fmt: skip
precisions = st.sampled_from(["float32", "bfloat16", "float16"])
on_devices = st.sampled_from(["cpu", "cuda", "mps"])


@given(small_configs, precisions, on_devices)
@settings(max_examples=60)
def test_more_sequences_or_layers_never_take_less(config, precision, device):
    def total(**changes) -> int:
        changed = config.with_changes({key.replace("__", "."): value for key, value in changes.items()})
        return memory.predict(changed, precision=precision, device=device).total

    whole = total()
    assert total(training__batch_size=config.training.batch_size + 1) >= whole
    assert total(model__n_layer=config.model.n_layer + 1) > whole
    assert total(training__gradient_accumulation=config.training.gradient_accumulation + 1) >= whole
    assert total(training__weight_average=0.99) > whole


@given(small_configs, on_devices)
@settings(max_examples=60)
def test_a_longer_window_never_takes_less(config, device):
    longer = config.with_changes({"model.block_size": config.model.block_size + 1})
    assert memory.predict(longer, device=device).total >= memory.predict(config, device=device).total


@given(small_configs, precisions, on_devices)
@settings(max_examples=60)
def test_computing_blocks_again_never_takes_more(config, precision, device):
    kept, recomputed = (
        max(of_tensors(moment) for moment in memory.predict(
            config, precision=precision, device=device, gradient_checkpointing=recompute).moments)
        for recompute in (False, True)
    )  # fmt: skip
    block_input = 4 * config.model.n_embd * config.model.block_size * config.training.batch_size
    assert recomputed <= kept + block_input  # that of the block which is computed again


@given(small_configs, precisions, on_devices)
@settings(max_examples=60)
def test_parts_are_positive_and_add_up(config, precision, device):
    predicted = memory.predict(config, precision=precision, device=device)
    assert all(size > 0 for moment in predicted.moments for size in moment.parts.values())
    assert predicted.total == sum(predicted.peak.parts.values()) == max(moment.total for moment in predicted.moments)


@pytest.mark.fast
def test_a_micro_batch_beyond_the_batch_is_the_batch():
    config = Config(model=dict(vocab_size=64), training=dict(batch_size=4))
    assert memory.predict(config, micro_batch=100) == memory.predict(config, micro_batch=4)


@pytest.mark.fast
def test_an_averaged_model_is_held_once_more():
    config = Config(model=dict(vocab_size=64), training=dict(weight_average=0.99))
    parts = memory.predict(config).peak.parts
    assert parts["weight average"] == parts["parameters"]


def test_windows_that_are_cut_take_the_memory_of_a_model_with_so_short_a_context():
    whole = tiny().with_changes({"model.vocab_size": 50, "model.block_size": 64, "training.batch_size": 1})
    cut, short = whole.with_changes({"device.longest_window": 16}), whole.with_changes({"model.block_size": 16})
    short = short.with_changes({"training.gradient_accumulation": 4})  # gradients are added to others in both
    assert memory.predict(cut).moments == memory.predict(short).moments
    assert memory.predict(cut).passes.total < memory.predict(whole).passes.total
