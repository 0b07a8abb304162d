"""A GPT-2 or Qwen3 in Hugging Face's layout: config.json, tokenizer.json, weights whole or in shards."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from nanogpt import durable
from nanogpt.config import ModelConfig, validate
from nanogpt.faults import UserError
from nanogpt.tokenizers import loading, tokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.weights import digests, published_settings
from nanogpt.weights.published_names import GPT2_PREFIX, Origin, origins
from nanogpt.weights.safe_loading import Array, Size, load_arrays, load_sizes
from nanogpt.weights.source import Source

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = ".index.json"  # behind the name of weights that are in shards
WEIGHT_FILES = (WEIGHTS, "pytorch_model.bin")  # the first that is there, whole or in shards

T = TypeVar("T")  # what is taken of each weight


class HuggingFaceFolder(Source):
    """Such a folder; what this project exports is one too. Weights that changed since then raise CorruptFileError."""

    kind = "Hugging Face folder"

    def _written_config(self) -> ModelConfig:
        path = self.path / CONFIG
        if not path.is_file():
            raise UserError(f"{self.path}: {CONFIG} is missing; expected a folder written by the export")
        try:
            values = published_settings.values_from(durable.read_json(path))
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
            raise UserError(f"{path}: not the configuration of a GPT-2 or Qwen3: {error}") from error
        return validate(ModelConfig, values, str(path))

    def _sizes(self, config: ModelConfig) -> dict[str, Size]:
        return self._ours(config, load_sizes, Origin.size)

    def _arrays(self, config: ModelConfig) -> dict[str, Array]:
        for path in self._weight_files():
            digests.check(path)
        return self._ours(config, load_arrays, Origin.array)

    def _ours(
        self, config: ModelConfig, load: Callable[[Path], dict[str, T]], take: Callable[[Origin, dict[str, T]], T]
    ) -> dict[str, T]:
        """Of each of our weights what `take` makes of what `load` reads."""
        theirs: dict[str, T] = {}
        for path in self._weight_files():
            theirs |= {name.removeprefix(GPT2_PREFIX): value for name, value in load(path).items()}
        try:
            return {name: take(origin, theirs) for name, origin in origins(config)}
        except KeyError as error:
            raise UserError(f"{self.path / WEIGHTS}: does not fit {CONFIG}: {error} is missing") from error
        except ValueError as error:  # query, key and value of different widths, or of none
            raise UserError(f"{self.path / WEIGHTS}: does not fit {CONFIG}: {error}") from error

    def tokenizer(self) -> Tokenizer | None:
        return loading.load_tokenizer(self.path) if (self.path / tokenizer.FILE).is_file() else None

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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: is not an index of weights ({error})") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (index.parent / name).is_file():
            raise UserError(f"{index}: names the file {name!r}, which is not in {index.parent}")
    return [index.parent / name for name in names]
