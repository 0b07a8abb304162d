"""What all places have in common from which a model's first weights can come."""

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

from torch import Tensor

from nanogpt import durable
from nanogpt.config import ModelConfig
from nanogpt.data.tokenizer import Tokenizer


class Source(ABC):
    """A trained model on disk. `kind` names its format for people. Its properties raise UserError."""

    kind: str

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    @abstractmethod
    def config(self) -> ModelConfig:
        """Its shape, vocab_size included; cheap, the weights are not read for it."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Every parameter of GPT(config) by its name, each once, float32 on the CPU."""

    @abstractmethod
    def tokenizer(self) -> Tokenizer | None:
        """What its ids mean, where the place says so."""

    @abstractmethod
    def files(self) -> list[Path]:
        """The files that decide shape and weights."""

    def digest(self) -> str:
        """Hexadecimal sha256: another one means other weights, wherever they lie."""
        return durable.digest(sorted([path.name, durable.sha256_file(path)] for path in self.files()))
