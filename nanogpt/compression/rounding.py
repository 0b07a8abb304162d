"""Weights of 8 or 4 bits by block, as nanogpt.export's GGUF files have them: what such a file computes, as an ordinary
model."""

from __future__ import annotations

import torch
from torch import nn

from nanogpt.compression.variant import Variant, copy_of, float_bytes
from nanogpt.faults import NonFiniteError
from nanogpt.model.gpt import GPT, weight_of
from nanogpt.weights.quantization import BLOCK, Bits, quantize

BYTES_OF_A_HALF = 2


def rounded(model: GPT, bits: Bits) -> Variant:
    """`model` with its matrices as `bits` bits mean them; its tables of tokens, the head too, have 8 bits at least.

    The tables are what suffers most at 4 bits, and llama.cpp keeps more for them as well. Rows that are no whole number
    of blocks become float16; learned positions and vectors stay float32. Raises NonFiniteError for weights that are no
    numbers.
    """
    small = copy_of(model)
    tables = [weight_of(small.token_embedding)] + ([] if small.config.tie_weights else [weight_of(small.head)])
    packed = sum(_round(matrix, bits) for matrix in small.matrices()) + sum(_round(table, 8) for table in tables)
    numbers = sum(parameter.numel() for parameter in [*small.matrices(), *tables])
    rest = float_bytes(small.num_parameters() - numbers)
    layout = "q8_0" if bits == 8 else "q4_0, tables of tokens in q8_0"
    return Variant(
        small, packed + rest, f"weights of {bits} bits in blocks of 32 (GGUF's {layout})", same_products=True
    )


@torch.no_grad()
def _round(parameter: nn.Parameter, bits: Bits) -> int:
    """Replace a matrix (rows, cols) by what its quantised form means; returns the bytes of that form."""
    if parameter.shape[1] % BLOCK:
        parameter.copy_(parameter.half())
        if not parameter.isfinite().all():
            raise NonFiniteError("a matrix to store as float16 holds NaN, infinity or numbers above 65,504")
        return parameter.numel() * BYTES_OF_A_HALF
    quantized = quantize(parameter.detach().cpu().numpy(), bits)
    parameter.copy_(torch.from_numpy(quantized.dequantized()))
    return quantized.nbytes
