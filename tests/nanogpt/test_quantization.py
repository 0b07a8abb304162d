"""Quantised matrices: near the original within the stated bound, and to the byte what GGUF's reference makes."""

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize as gguf_dequantize
from gguf.quants import quantize as gguf_quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nanogpt.faults import NonFiniteError
from nanogpt.weights.quantization import quantize

pytestmark = pytest.mark.fast

TYPES = {8: gguf.GGMLQuantizationType.Q8_0, 4: gguf.GGMLQuantizationType.Q4_0}
weights = st.floats(-100, 100, width=32)
matrices = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 70)), elements=weights)
whole_blocks = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.sampled_from([32, 96])), elements=weights)
bits_of = st.sampled_from([4, 8])


@settings(max_examples=60, deadline=None)
@given(matrices, bits_of, st.sampled_from([8, 32, 64]))
def test_each_number_is_off_by_no_more_than_its_scale_allows(matrix, bits, block):
    quantized = quantize(matrix, bits, block)
    most = 127 if bits == 8 else 8
    assert quantized.values.shape == matrix.shape and quantized.values.dtype == np.int8
    assert quantized.scales.shape == (len(matrix), -(-matrix.shape[1] // block))
    assert np.abs(quantized.values.astype(int)).max(initial=0) <= most
    scales = np.abs(np.repeat(quantized.scales, block, axis=1)[:, : matrix.shape[1]])
    share = 0.5 if bits == 8 else 1.0
    rounding = most * scales * 2**-11 + most * 2.0**-25  # of the scale as a float16, normal and subnormal
    assert (np.abs(quantized.dequantized() - matrix) <= share * scales * 1.001 + rounding).all()


@settings(max_examples=60, deadline=None)
@given(whole_blocks, bits_of)
def test_a_matrix_means_to_gguf_exactly_what_it_means_here(matrix, bits):
    theirs = gguf_dequantize(gguf_quantize(matrix, TYPES[bits]), TYPES[bits])
    np.testing.assert_array_equal(quantize(matrix, bits).dequantized(), theirs)


@settings(max_examples=30, deadline=None)
@given(whole_blocks)
def test_a_quantised_matrix_with_whole_scales_stays_as_it_is(matrix):
    """What is already a product of whole numbers and a scale that a float16 holds loses nothing."""
    exact = np.clip(np.round(matrix), -100, 100)
    exact[:, ::32] = 127
    np.testing.assert_array_equal(quantize(exact, 8).dequantized(), exact)


def test_bytes_are_those_of_a_file():
    matrix = np.ones((4, 96), np.float32)
    assert quantize(matrix, 8).nbytes == gguf_quantize(matrix, TYPES[8]).nbytes == 4 * 3 * 34
    assert quantize(matrix, 4).nbytes == gguf_quantize(matrix, TYPES[4]).nbytes == 4 * 3 * 18


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_no_number_is_refused(wrong, bits):
    matrix = np.ones((2, 40), np.float32)
    matrix[1, 35] = wrong
    with pytest.raises(NonFiniteError):
        quantize(matrix, bits)


def test_other_bits_are_refused():
    with pytest.raises(ValueError, match="4 or 8"):
        quantize(np.ones((2, 2), np.float32), 3)
