"""Speculative decoding: a smaller model guesses what comes next, and the model reads all guesses in one pass."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nanogpt.decoders.protocol import Decoder
from nanogpt.inference.batch import Model, Writing
from nanogpt.inference.options import Options, Piece
from nanogpt.inference.sampling import NOT_A_TOKEN, Sampler, choose

GUESSES = 4


class _Reader:
    """A decoder and what it has read of one text. Where that is full, the newer half is read again."""

    def __init__(self, decoder: Decoder, context: int):
        self.decoder, self.context = decoder, context
        self.cache = decoder.new_cache()
        self.read: list[int] = []

