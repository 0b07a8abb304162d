"""A GPT-2 or Qwen3 in Hugging Face's layout: config.json, tokenizer.json, weights whole or in shards."""

from pathlib import Path

from torch import Tensor

from nanogpt import durable
from nanogpt.config import ModelConfig, validate
from nanogpt.data import tokenizer as tokenizers
from nanogpt.data.tokenizer import Tokenizer
from nanogpt.faults import UserError
from nanogpt.weights import digests, published_settings, published_shapes
from nanogpt.weights.safe_loading import load_tensors
from nanogpt.weights.source import Source

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = ".index.json"  # behind the name of weights that are in shards
WEIGHT_FILES = (WEIGHTS, "pytorch_model.bin")  # the first that is there, whole or in shards


class HuggingFaceFolder(Source):
    """Such a folder; what this project exports is one too. Weights that changed since then raise CorruptFileError."""

    kind = "Hugging Face folder"

    def _written_config(self) -> ModelConfig:
        path = self.path / CONFIG
        if not path.is_file():
            raise UserError(f"{self.path}: {CONFIG} is missing; expected a folder written by the export")
        try:
            values = published_settings.values_from(durable.read_json(path))
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise UserError(f"{path}: not the configuration of a GPT-2 or Qwen3: {error}") from error
        return validate(ModelConfig, values, str(path))

    def _tensors(self, config: ModelConfig, *, sizes_only: bool) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for path in self._weight_files():
            if not sizes_only:
                digests.check(path)
            tensors |= load_tensors(path, sizes_only=sizes_only)
        try:
            return published_shapes.weights_from(tensors, config)
        except KeyError as error:
            raise UserError(f"{self.path / WEIGHTS}: does not fit {CONFIG}: {error} is missing") from error
        except (RuntimeError, IndexError) as error:  # query, key and value of different widths, or of none
            raise UserError(f"{self.path / WEIGHTS}: does not fit {CONFIG}: {error}") from error

    def tokenizer(self) -> Tokenizer | None:
        return tokenizers.load_tokenizer(self.path) if (self.path / tokenizers.FILE).is_file() else None

    def files(self) -> list[Path]:
        return [self.path / CONFIG, *self._weight_files()]

    def _weight_files(self) -> list[Path]:
        for name in WEIGHT_FILES:
            whole, index = self.path / name, self.path / f"{name}{INDEX}"
            if whole.is_file():
                return [whole]
            if index.is_file():
                return _shards(index)
        raise UserError(f"{self.path}: {WEIGHTS} is missing; expected a folder written by the export")


def _shards(index: Path) -> list[Path]:
    """The files that an index names, each inside its own folder."""
    try:
        names = sorted(set(durable.read_json(index)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index}: is not an index of weights ({error})") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (index.parent / name).is_file():
            raise UserError(f"{index}: names the file {name!r}, which is not in {index.parent}")
    return [index.parent / name for name in names]
