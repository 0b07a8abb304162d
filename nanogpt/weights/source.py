"""What every place has in common from which a trained model can be read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nanogpt import durable
from nanogpt.config import ModelConfig
from nanogpt.faults import UserError
from nanogpt.machine import memory_bytes
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.units import byte_size
from nanogpt.weights.safe_loading import Array, Size

if TYPE_CHECKING:  # what decodes without torch reads its weights here too
    from torch import Tensor

ROTARY_BYTES = 20  # for each position and coordinate, while the tables are made: in float64 first


class Source(ABC):
    """A trained model on disk. `kind` names its format for people. Everything here raises UserError."""

    kind: str

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def config(self) -> ModelConfig:
        """Its shape, vocab_size included. It is checked against the header of the weights' file, which is not read."""
        config = self._written_config()
        check_sizes(config, self._sizes(config), str(self.path))
        return config

    @property
    def vocab_size(self) -> int:
        """Rows of its table of tokens; a tokenizer may use fewer."""
        return self.config.vocab_size or 0

    @property
    def parameters(self) -> int:
        """How many numbers arrays() gives."""
        return sum(prod(size) for size in self._sizes(self.config).values())

    def arrays(self) -> dict[str, Array]:
        """Every parameter of GPT(config) by its name, each once, float32, finite. GPT-2's are views, transposed."""
        arrays = self._arrays(self.config)
        check_sizes(self.config, {name: array.shape for name, array in arrays.items()}, str(self.path))
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise UserError(f"{self.path}: {name} holds NaN or infinity; the model is damaged")
        return arrays

    def weights(self) -> dict[str, Tensor]:
        """arrays() as tensors on the CPU."""
        from torch import from_numpy  # only for whoever has torch already

        return {name: from_numpy(array) for name, array in self.arrays().items()}

    @abstractmethod
    def tokenizer(self) -> Tokenizer | None:
        """What its ids mean; None where the place does not say."""

    @abstractmethod
    def files(self) -> list[Path]:
        """The files that decide shape and weights."""

    def digest(self) -> str:
        """Hexadecimal sha256: another one means other weights, wherever they lie."""
        return durable.digest(sorted([path.name, durable.sha256_file(path)] for path in self.files()))

    @abstractmethod
    def _written_config(self) -> ModelConfig:
        """Its shape as the place states it."""

    @abstractmethod
    def _sizes(self, config: ModelConfig) -> dict[str, Size]:
        """The sizes of arrays(), unchecked, from the header alone."""

    @abstractmethod
    def _arrays(self, config: ModelConfig) -> dict[str, Array]:
        """arrays(), unchecked."""


def check_sizes(config: ModelConfig, sizes: Mapping[str, Size], where: str) -> None:
    """Raise UserError unless the weights have these sizes, no more and no less, that `config` states.

    A model is built next: a file that asks for 10**9 layers and holds two must not be believed.
    """
    expected = {}
    for name, size in sizes_of(config):
        if name not in sizes and name.endswith(FIRST_OF_A_LAYER):
            layer = int(name.split(".")[1])
            raise UserError(f"{where}: {config.n_layer:,} layers are configured, the weights are of {layer:,}")
        found = sizes.get(name, "missing")
        if found != size:
            raise UserError(f"{where}: {name} does not fit the configuration: should be {size}, is {found}")
        expected[name] = size
    for name in sizes.keys() - expected.keys():
        raise UserError(f"{where}: {name} does not fit the configuration, which has no such weight")
    rotary = ROTARY_BYTES * config.block_size * config.head_width if config.position == "rope" else 0
    if rotary > memory_bytes():
        raise UserError(
            f"{where}: a context of {config.block_size:,} tokens is configured; the tables of its positions need "
            f"{byte_size(rotary)}, more memory than there is"
        )


FIRST_OF_A_LAYER = "attention_norm.weight"


def sizes_of(config: ModelConfig) -> Iterator[tuple[str, Size]]:
    """The name and size of every parameter of GPT(config), one by one: 10**9 layers may be configured."""
    n_embd, width, vocab_size = config.n_embd, config.head_width, config.vocab_size or 0
    yield "token_embedding.weight", (vocab_size, n_embd)
    if config.position == "learned":
        yield "position_embedding.weight", (config.block_size, n_embd)
    for layer in range(config.n_layer):
        block = f"blocks.{layer}"
        yield from _norm(f"{block}.attention_norm", config)
        yield from _linear(f"{block}.attention.qkv", (config.n_head + 2 * config.kv_heads) * width, n_embd, config)
        yield from _linear(f"{block}.attention.output", n_embd, config.n_head * width, config)
        if config.qk_norm:
            yield f"{block}.attention.q_norm.weight", (width,)
            yield f"{block}.attention.k_norm.weight", (width,)
        yield from _norm(f"{block}.feedforward_norm", config)
        up_rows = config.ffn_width * (2 if config.activation == "swiglu" else 1)
        yield from _linear(f"{block}.feedforward.up", up_rows, n_embd, config)
        yield from _linear(f"{block}.feedforward.down", n_embd, config.ffn_width, config)
    yield from _norm("final_norm", config)
    if not config.tie_weights:
        yield "head.weight", (vocab_size, n_embd)


def _norm(name: str, config: ModelConfig) -> Iterator[tuple[str, Size]]:
    yield f"{name}.weight", (config.n_embd,)
    if config.norm == "layernorm" and config.bias:
        yield f"{name}.bias", (config.n_embd,)


def _linear(name: str, rows: int, columns: int, config: ModelConfig) -> Iterator[tuple[str, Size]]:
    yield f"{name}.weight", (rows, columns)
    if config.bias:
        yield f"{name}.bias", (rows,)
