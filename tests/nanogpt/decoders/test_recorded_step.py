"""A step over buffers that stay where they are computes what the whole forward pass does, whatever joins and leaves.

No GPU here: a step is computed call by call, or again from the operations of one step, which like a
CUDA graph know nothing but the tensors that they were recorded with.
"""

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from nanogpt.decoders import recorded_step
from nanogpt.decoders.recorded_step import Record, Step
from nanogpt.decoders.torch_decoder import TorchDecoder
from tests.nanogpt.decoders.decoder_case import SHAPES, assert_close, expected_logits, shape, some_text
from tests.nanogpt.model_case import randomised, small

MODEL = randomised(small("modern", n_embd=64, n_kv_head=2, block_size=300))
TEXTS = [some_text(MODEL.config, seed) for seed in range(4)]
EXPECTED = [expected_logits(MODEL, text) for text in TEXTS]


class Recorder:
    """Calls `record` and counts."""

    def __init__(self, record: Record = lambda step: step):
        self.record, self.count = record, 0

    def __call__(self, step: Step) -> Step:
        self.count += 1
        return self.record(step)


class Tape(TorchDispatchMode):
    """The operations of a step with the tensors that they took and made."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, made))
        return made


def traced(step: Step) -> Step:
    """What a CUDA graph does: the operations of one step again, without the Python that made them."""
    with Tape() as tape:
        logits = step()

    def replay() -> Tensor:
        now = {}  # by the tensor of the recording

        def again(recorded):
            return now.get(id(recorded), recorded)

        for operation, args, kwargs, made in tape.operations:
            found = operation(*tree_map(again, args), **tree_map(again, kwargs))
            now.update(zip(map(id, tree_leaves(made)), tree_leaves(found), strict=True))
        return again(logits)

    return replay


@pytest.fixture(autouse=True)
def short_reaches(monkeypatch):
    monkeypatch.setattr(recorded_step, "SHORTEST", 4)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_texts_join_leave_and_are_copied(data):
    """A random history against the plain decoder's logits, of any shape."""
    config = shape(data.draw(SHAPES), data.draw(st.sampled_from([2, 16])))
    model = randomised(config)
    decoder = TorchDecoder(model, record=lambda step: step)
    texts = [some_text(config, seed) for seed in range(3)]
    expected = [expected_logits(model, text) for text in texts]
    starts = st.integers(1, config.block_size - 5)
    rows = [(text, data.draw(starts)) for text in data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))]
    cache = decoder.new_cache()
    decoder.prefill([texts[text][:length] for text, length in rows], cache)
    for _ in range(4):
        if max(length for _, length in rows) + 2 > config.block_size:
            return
        match data.draw(st.sampled_from(["step", "select", "join", "cut", "prefill"])):
            case "select":
                chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
                cache.select(chosen)
                rows = [rows[row] for row in chosen]
            case "join":
                other, (text, length) = decoder.new_cache(), (data.draw(st.integers(0, 2)), data.draw(starts))
                decoder.prefill([texts[text][:length]], other)
                decoder.step(np.array([texts[text][length]]), other)
                cache.join(other)
                rows.append((text, length + 1))
            case "cut":
                rows = [(text, data.draw(st.integers(1, length))) for text, length in rows]
                cache.cut([length for _, length in rows])
            case "prefill":
                decoder.prefill([texts[text][length : length + 1] for text, length in rows], cache)
                rows = [(text, length + 1) for text, length in rows]
        found = decoder.step(np.array([texts[text][length] for text, length in rows]), cache)
        assert_close(found, np.stack([expected[text][length] for text, length in rows]))
        rows = [(text, length + 1) for text, length in rows]
        assert list(cache.lengths) == [length for _, length in rows]


def test_a_trace_of_one_step_computes_all_later_ones():
    recorder, said = Recorder(traced), list[str]()
    decoder = TorchDecoder(MODEL, record=recorder, notify=said.append)
    cache, starts = decoder.new_cache(), [9, 3, 20]
    decoder.prefill([TEXTS[text][:start] for text, start in enumerate(starts)], cache)
    for step in range(40):
        found = decoder.step(np.array([TEXTS[text][start + step] for text, start in enumerate(starts)]), cache)
        assert_close(found, np.stack([EXPECTED[text][start + step] for text, start in enumerate(starts)]))
    assert recorder.count == 2  # up to 32 positions, and up to 64
    cache.cut([9, 3, 20])
    cache.select([2, 0])  # into another frame: two texts at most
    found = decoder.step(np.array([TEXTS[2][20], TEXTS[0][9]]), cache)
    assert_close(found, np.stack([EXPECTED[2][20], EXPECTED[0][9]]))
    assert recorder.count == 3 and not said


def test_a_frame_serves_the_next_text_when_its_own_has_ended():
    recorder = Recorder()
    decoder = TorchDecoder(MODEL, record=recorder)
    for text in range(3):
        cache = decoder.new_cache()
        decoder.prefill([TEXTS[text][:5]], cache)
        assert_close(decoder.step(np.array([TEXTS[text][5]]), cache), EXPECTED[text][5:6])
    assert recorder.count == 1
    both = [decoder.new_cache(), cache]
    decoder.prefill([TEXTS[3][:6]], both[0])
    for length in (6, 7):  # two at once need two
        for cache, text in zip(both, (3, 2), strict=True):
            assert_close(decoder.step(np.array([TEXTS[text][length]]), cache), EXPECTED[text][length][None])
    assert recorder.count == 2


def test_the_frame_that_was_not_used_for_longest_goes_and_its_text_goes_on(monkeypatch):
    monkeypatch.setattr(recorded_step, "FRAMES", 2)
    decoder = TorchDecoder(MODEL, record=lambda step: step)
    caches = [decoder.new_cache() for _ in range(3)]
    for text, cache in enumerate(caches):
        decoder.prefill([TEXTS[text][:5]], cache)
    for length in (5, 6):
        for text, cache in enumerate(caches):
            assert_close(decoder.step(np.array([TEXTS[text][length]]), cache), EXPECTED[text][length][None])
    assert decoder.recorded is not None and len(decoder.recorded.frames) == 2


def cannot(step: Step) -> Step:
    raise RuntimeError("CUDA error: operation not permitted\nmore of it")


def wrong(step: Step) -> Step:
    return lambda: step() + torch.linspace(0, 1, MODEL.config.vocab_size)


@pytest.mark.parametrize(("record", "reason"), [(cannot, "CUDA error: operation not permitted"), (wrong, "differ")])
def test_what_cannot_be_recorded_or_computes_another_thing_is_left(record, reason):
    said = list[str]()
    decoder = TorchDecoder(MODEL, record=record, notify=said.append)
    assert decoder.description == "torch on cpu, float32, recorded steps"
    cache = decoder.new_cache()
    decoder.prefill([TEXTS[0][:2]], cache)
    for length in range(2, 12):
        assert_close(decoder.step(np.array(TEXTS[0][length : length + 1]), cache), EXPECTED[0][length][None])
    assert len(said) == 1 and said[0].startswith("decoding without a CUDA graph: ") and reason in said[0]
    assert "\n" not in said[0] and "recorded" not in decoder.description


def test_a_broken_model_computes_nan_and_no_recording_is_blamed():
    model, said = randomised(small("modern")), list[str]()
    model.final_norm.weight.data[0] = float("nan")
    decoder = TorchDecoder(model, record=lambda step: step, notify=said.append)
    cache = decoder.new_cache()
    decoder.prefill([[1]], cache)
    assert np.isnan(decoder.step(np.array([1]), cache)).all() and not said


def test_nothing_outlives_the_decoder():
    """Keys and values of 124M's block are 75 MB a text; a server drops models to have their memory."""
    decoder = TorchDecoder(MODEL, record=lambda step: step)
    cache = decoder.new_cache()
    decoder.prefill([[1]], cache)
    decoder.step(np.array([1]), cache)
    assert decoder.recorded is not None
    gc.disable()
    try:
        gone = weakref.ref(decoder.recorded.frames[0])
        del decoder, cache
        assert gone() is None
    finally:
        gc.enable()


def test_steps_are_recorded_on_cuda_alone():
    assert recorded_step.record_on("cpu") is None and recorded_step.record_on("mps") is None
    assert recorded_step.record_on("cuda") is recorded_step.on_cuda


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records a CUDA graph")
def test_a_cuda_graph():
    said = list[str]()
    decoder = TorchDecoder(MODEL, "cuda", recorded_step.on_cuda, said.append)
    cache = decoder.new_cache()
    decoder.prefill([TEXTS[0][:3], TEXTS[1][:9]], cache)
    for step in range(40):
        found = decoder.step(np.array([TEXTS[0][3 + step], TEXTS[1][9 + step]]), cache)
        assert np.abs(found - np.stack([EXPECTED[0][3 + step], EXPECTED[1][9 + step]])).max() < 1e-2
    MODEL.cpu()
    assert not said
