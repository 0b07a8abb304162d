"""What every place has in common from which a trained model can be read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor

from nanogpt import durable
from nanogpt.config import ModelConfig
from nanogpt.data.tokenizer import Tokenizer
from nanogpt.faults import UserError
from nanogpt.machine import memory_bytes
from nanogpt.model.gpt import GPT
from nanogpt.units import byte_size
from nanogpt.weights import checkpoint

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
        check_sizes(config, self._tensors(config, sizes_only=True), str(self.path))
        return config

    @property
    def vocab_size(self) -> int:
        """Rows of its table of tokens; a tokenizer may use fewer."""
        return self.config.vocab_size or 0

    @property
    def parameters(self) -> int:
        """How many numbers weights() gives."""
        return sum(tensor.numel() for tensor in self._tensors(self.config, sizes_only=True).values())

    def weights(self) -> dict[str, Tensor]:
        """Every parameter of GPT(config) by its name, each once, float32 on the CPU, finite."""
        weights = self._tensors(self.config, sizes_only=False)
        for name, tensor in weights.items():
            if not tensor.isfinite().all():
                raise UserError(f"{self.path}: {name} holds NaN or infinity; the model is damaged")
        return weights

    def model(self) -> GPT:
        """The model, ready to decode."""
        model = GPT(self.config, seed=None)
        checkpoint.put_weights(model, self.weights(), str(self.path))
        return model.eval()

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
    def _tensors(self, config: ModelConfig, *, sizes_only: bool) -> dict[str, Tensor]:
        """weights(), unchecked; with `sizes_only` on the meta device, from the header alone."""


def check_sizes(config: ModelConfig, weights: Mapping[str, Tensor], where: str) -> None:
    """Raise UserError unless `weights` have the sizes that `config` states.

    A model is built next: a file that asks for 10**9 layers and holds two must not be believed.
    """
    heads, n_embd = config.n_head + 2 * config.kv_heads, config.n_embd
    up_rows = config.ffn_width * (2 if config.activation == "swiglu" else 1)
    expected = {"token_embedding.weight": (config.vocab_size, n_embd)}
    if config.position == "learned":
        expected["position_embedding.weight"] = (config.block_size, n_embd)
    for layer in range(config.n_layer):
        if f"blocks.{layer}.attention.qkv.weight" not in weights:
            raise UserError(f"{where}: {config.n_layer:,} layers are configured, the weights are of {layer:,}")
        expected[f"blocks.{layer}.attention.qkv.weight"] = (heads * config.head_width, n_embd)
        expected[f"blocks.{layer}.feedforward.up.weight"] = (up_rows, n_embd)
    for name, size in expected.items():
        found = tuple(weights[name].shape) if name in weights else "missing"
        if found != size:
            raise UserError(f"{where}: {name} does not fit the configuration: should be {size}, is {found}")
    rotary = ROTARY_BYTES * config.block_size * config.head_width if config.position == "rope" else 0
    if rotary > memory_bytes():
        raise UserError(
            f"{where}: a context of {config.block_size:,} tokens is configured; the tables of its positions need "
            f"{byte_size(rotary)}, more memory than there is"
        )
