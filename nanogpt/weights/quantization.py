"""Matrices as small whole numbers with one scale a block: 8 bits as GGUF's q8_0, 4 bits as its q4_0. numpy only.

Source: llama.cpp, ggml/src/ggml-quants.c (quantize_row_q8_0_ref, quantize_row_q4_0_ref).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nanogpt.faults import NonFiniteError

BLOCK = 32  # numbers that share a scale, as in GGUF
BITS_OF_A_SCALE = 16

Bits = Literal[4, 8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Quantized:
    """A matrix (rows, cols): `values` int8 (rows, cols) in -127..127 (8 bits) or -8..7 (4 bits), and `scales` float32
    (rows, ceil(cols / block)), one for each run of `block` columns of a row. The last run may be shorter.

    Scales hold what a float16 can, so that a file which stores them as such means exactly this matrix. With 4 bits a
    scale may be negative: the number of largest magnitude becomes -8 exactly, on whichever side of zero it is.
    """

    values: npt.NDArray[np.int8]
    scales: Floats
    bits: Bits
    block: int

    def dequantized(self) -> Floats:
        """values * scales, float32 (rows, cols)."""
        scales = np.repeat(self.scales, self.block, axis=1)[:, : self.values.shape[1]]
        return self.values * scales

    @property
    def nbytes(self) -> int:
        """Bytes in a file: `bits` for each number, a float16 for each scale."""
        return -(-self.values.size * self.bits // 8) + self.scales.size * BITS_OF_A_SCALE // 8


def quantize(matrix: Floats, bits: Bits, block: int = BLOCK) -> Quantized:
    """The nearest `bits`-bit numbers to `matrix`, float32 (rows, cols), with one scale for `block` columns of a row.

    A number is off by half a scale at most, up to the rounding of the scale to float16; with 4 bits by a whole scale
    at the end of the range that the largest number does not take. Raises NonFiniteError for NaN, infinity, and what a
    float16 cannot scale (above 8 million), ValueError for other bits or no matrix.
    """
    if bits not in (4, 8) or matrix.ndim != 2 or block < 1:
        raise ValueError(
            f"quantize: found {bits} bits, {matrix.ndim} dimensions, block {block}; should be 4 or 8, 2, 1+"
        )
    blocks = _blocks(np.asarray(matrix, np.float32), block)  # (rows, blocks, block)
    values, scales = (_eight_bits if bits == 8 else _four_bits)(blocks)
    with np.errstate(over="ignore"):
        scales = scales.astype(np.float16).astype(np.float32)
    if not np.isfinite(scales).all():
        raise NonFiniteError("a matrix to quantise holds NaN, infinity or numbers too large for a float16 scale")
    flat = values.astype(np.int8).reshape(len(matrix), -1)[:, : matrix.shape[1]]
    return Quantized(np.ascontiguousarray(flat), scales, bits, block)


def _blocks(matrix: Floats, block: int) -> Floats:
    """(rows, cols) -> (rows, ceil(cols / block), block), filled up with zeros."""
    rows, cols = matrix.shape
    count = -(-cols // block)
    padded = matrix if cols == count * block else np.pad(matrix, ((0, 0), (0, count * block - cols)))
    return padded.reshape(rows, count, block)


def _eight_bits(blocks: Floats) -> tuple[Floats, Floats]:
    """Numbers in -127..127 and scales: the largest magnitude becomes 127."""
    scales = np.abs(blocks).max(axis=2) / np.float32(127)
    return _half_away_from_zero(_divided(blocks, scales)), scales


def _four_bits(blocks: Floats) -> tuple[Floats, Floats]:
    """Numbers in -8..7 and scales: the number of largest magnitude becomes -8."""
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)[..., 0]
    scales = largest / np.float32(-8)
    return np.clip(np.floor(_divided(blocks, scales) + np.float32(8.5)), 0, 15) - 8, scales


def _divided(blocks: Floats, scales: Floats) -> Floats:
    """By the reciprocal in float32, as llama.cpp does; zeros where the scale is zero."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        reciprocals = np.where(scales == 0, np.float32(0), np.float32(1) / scales)
        divided: Floats = np.nan_to_num(blocks * reciprocals[..., None], nan=0.0, posinf=0.0, neginf=0.0)
        return divided


def _half_away_from_zero(numbers: Floats) -> Floats:
    """C's roundf(); numpy rounds halves to even."""
    magnitude = np.abs(numbers)
    floor = np.floor(magnitude)
    rounded: Floats = np.copysign(floor + np.floor(2 * (magnitude - floor)), numbers)
    return rounded
