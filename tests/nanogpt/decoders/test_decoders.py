"""Every backend computes what the whole forward pass does, for every shape, whatever joins and leaves its cache."""

import ctypes
import platform
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.decoders.c_decoder import SOURCE, CDecoder
from nanogpt.decoders.ort_decoder import OrtDecoder
from nanogpt.decoders.parts import parts_of
from nanogpt.decoders.protocol import Cache, Decoder
from nanogpt.decoders.reference import logits_of
from nanogpt.native.c_source import COMMON_FLAGS, CSource, find_compiler
from nanogpt.native.unavailable import Unavailable
from nanogpt.weights.quantization import quantize
from tests.nanogpt.decoders.decoder_case import (
    BACKENDS,
    SHAPES,
    WIDTHS,
    arrays_of,
    assert_close,
    expected_logits,
    shape,
    some_text,
)
from tests.nanogpt.model_case import randomised, small


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_every_shape_at_every_position(backend, data):
    config = shape(data.draw(SHAPES), data.draw(WIDTHS[backend]))
    model = randomised(config)
    decoder = BACKENDS[backend](model, data.draw(st.integers(1, 3)))
    texts = [some_text(config, seed) for seed in (1, 2)]
    expected = [expected_logits(model, text) for text in texts]
    cuts = [sorted(data.draw(st.lists(st.integers(1, config.block_size - 2), min_size=2, max_size=2))) for _ in texts]
    cache = decoder.new_cache()
    (a, b), (c, d) = cuts
    found = decoder.prefill([texts[0][:a], texts[1][:c]], cache, every=True)
    assert_close(found, np.concatenate([expected[0][:a], expected[1][:c]]))
    found = decoder.step(np.array([texts[0][a], texts[1][c]]), cache)
    assert_close(found, np.stack([expected[0][a], expected[1][c]]))
    b, d = max(b, a + 1), max(d, c + 1)
    found = decoder.prefill([texts[0][a + 1 : b + 1], texts[1][c + 1 : d + 1]], cache)
    assert_close(found, np.stack([expected[0][b], expected[1][d]]))
    assert list(cache.lengths) == [b + 1, d + 1]


@settings(max_examples=25, deadline=None)
@given(options=SHAPES, head_dim=WIDTHS["c"])
def test_the_reference_is_the_model(options, head_dim):
    config = shape(options, head_dim)
    model, text = randomised(config), some_text(config, 1)
    found = logits_of(config, parts_of(config, arrays_of(model)), text)
    assert_close(found.astype(np.float32), expected_logits(model, text))


@pytest.fixture(scope="module", params=BACKENDS)
def decoder(request) -> Decoder:
    return BACKENDS[request.param](MODEL, 1)


MODEL = randomised(small("modern", n_embd=64, n_kv_head=2, block_size=40))
TEXTS = [some_text(MODEL.config, seed) for seed in range(4)]
EXPECTED = [expected_logits(MODEL, text) for text in TEXTS]


def filled(decoder: Decoder, lengths: dict[int, int]) -> Cache:
    """A cache with so many tokens of each text."""
    cache = decoder.new_cache()
    decoder.prefill([TEXTS[text][:length] for text, length in lengths.items()], cache)
    return cache


def assert_holds(decoder: Decoder, cache: Cache, lengths: list[tuple[int, int]]) -> None:
    """Each row holds so many tokens of a text: its next logits say so."""
    assert list(cache.lengths) == [length for _, length in lengths]
    found = decoder.step(np.array([TEXTS[text][length] for text, length in lengths]), cache)
    assert_close(found, np.stack([EXPECTED[text][length] for text, length in lengths]))


def test_rows_are_chosen_copied_and_forgotten(decoder):
    cache = filled(decoder, {0: 5, 1: 9, 2: 2})
    cache.select([2, 0, 2])
    assert_holds(decoder, cache, [(2, 2), (0, 5), (2, 2)])
    decoder.step(np.array([TEXTS[2][3], TEXTS[0][6], TEXTS[1][0]]), cache)  # the copies part here
    cache.select([0, 1])
    assert_holds(decoder, cache, [(2, 4), (0, 7)])
    cache.select([])
    assert list(cache.lengths) == []
    decoder.prefill([TEXTS[3][:6]], cache)
    assert_holds(decoder, cache, [(3, 6)])


def test_a_copy_and_its_original_go_their_own_ways(decoder):
    cache = filled(decoder, {0: 5, 1: 9})
    copy = cache.copied([1, 0, 1])
    decoder.step(np.array([0, 0]), cache)
    assert_holds(decoder, copy, [(1, 9), (0, 5), (1, 9)])
    cache.cut([5, 9])
    assert_holds(decoder, cache, [(0, 5), (1, 9)])


def test_rows_of_another_cache_join(decoder):
    cache = filled(decoder, {0: 5})
    for text, length in ((1, 11), (2, 3), (3, 30)):
        cache.join(filled(decoder, {text: length}))
    assert_holds(decoder, cache, [(0, 5), (1, 11), (2, 3), (3, 30)])
    empty = decoder.new_cache()
    empty.join(filled(decoder, {2: 4, 1: 2}))
    assert_holds(decoder, empty, [(2, 4), (1, 2)])


def test_what_was_cut_is_forgotten(decoder):
    cache = filled(decoder, {0: 20, 1: 12})
    cache.cut([7, 12])
    assert_holds(decoder, cache, [(0, 7), (1, 12)])


def test_a_prompt_longer_than_what_passes_at_once(decoder):
    model = randomised(small("gpt2", n_embd=64, block_size=200, n_head=4))
    wide, text = BACKENDS[decoder.name](model, 2), some_text(model.config, 5)
    assert_close(wide.prefill([text], wide.new_cache(), every=True), expected_logits(model, text))


def test_more_than_the_block_is_refused_and_leaves_the_cache(decoder):
    cache = filled(decoder, {0: 39, 1: 5})
    decoder.step(np.array([TEXTS[0][39], TEXTS[1][5]]), cache)
    with pytest.raises(ValueError, match="sequence of 41 tokens is longer than block_size 40"):
        decoder.step(np.array([0, 0]), cache)
    with pytest.raises(ValueError, match="longer than block_size"):
        decoder.prefill([[0], [0] * 3], cache)
    cache.select([1])
    assert_holds(decoder, cache, [(1, 6)])


@pytest.mark.parametrize("make", [CDecoder, OrtDecoder])
@pytest.mark.parametrize("token", [-1, 50, 10**9])
def test_a_token_outside_the_vocabulary_is_refused(make, token):
    decoder = make(MODEL.config, arrays_of(MODEL))
    cache = decoder.new_cache()
    with pytest.raises(ValueError, match="not in the vocabulary of 50"):
        decoder.prefill([[1, token]], cache)
    decoder.prefill([[1]], cache)
    with pytest.raises(ValueError, match="not in the vocabulary of 50"):
        decoder.step(np.array([token]), cache)


@pytest.mark.parametrize("make", [CDecoder, OrtDecoder])
@pytest.mark.parametrize("preset", ["gpt2", "modern"])
def test_int8_computes_with_the_quantised_weights(make, preset):
    """With activations in float32 they are the logits of the rounded model; onnxruntime rounds activations as well."""
    model = randomised(small(preset, n_embd=64, tie_weights=False))
    arrays = dict(arrays_of(model))
    decoder, text = make(model.config, arrays, 2, "int8"), some_text(model.config, 1)
    for name, array in arrays.items():
        if array.ndim == 2 and "embedding" not in name:
            arrays[name] = quantize(array, 8).dequantized()
    expected = logits_of(model.config, parts_of(model.config, arrays), text)
    cache = decoder.new_cache()
    found = [decoder.prefill([text[:-1]], cache, every=True), decoder.step(np.array(text[-1:]), cache)]
    error = np.abs(np.concatenate(found) - expected).max() / expected.std()
    assert error < (1e-4 if make is CDecoder else 0.2)


def test_heads_that_onnxruntime_does_not_take():
    model = randomised(small("modern", head_dim=6))
    with pytest.raises(Unavailable, match=r"head_dim 6: .* multiple of 16"):
        OrtDecoder(model.config, arrays_of(model))


def test_nan_in_gives_nan_out(decoder):
    """Whoever writes has to notice."""
    model = randomised(small("modern", n_embd=64))
    model.final_norm.weight.data[0] = float("nan")
    broken = BACKENDS[decoder.name](model, 1)
    assert np.isnan(broken.prefill([[1, 2]], broken.new_cache())).all()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64")
@pytest.mark.parametrize("flags", [["-mno-avx"], ["-mavx2", "-mfma"]], ids=["4 lanes", "8 lanes"])
def test_narrower_vectors_compute_the_same(flags, tmp_path, monkeypatch):
    library = tmp_path / "decoder.so"
    source = [str(SOURCE.path), "-lm"]
    subprocess.run([*find_compiler(), "-O3", *flags, *COMMON_FLAGS, "-o", library, *source], check=True)
    monkeypatch.setattr(CSource, "load", lambda source, notify: ctypes.CDLL(str(library)))
    for precision in ("float32", "int8"):
        narrow = CDecoder(MODEL.config, arrays_of(MODEL), 2, precision)
        cache = narrow.new_cache()
        found = [narrow.prefill([TEXTS[0][:30]], cache, every=True), narrow.step(np.array([TEXTS[0][30]]), cache)]
        error = np.abs(np.concatenate(found) - EXPECTED[0][:31]).max() / EXPECTED[0].std()
        assert error < (1e-4 if precision == "float32" else 0.2)
