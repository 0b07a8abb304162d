"""What the trainer leaves: a model's folder, of which best/ is taken, or one checkpoint in it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from nanogpt.config import ModelConfig, load_config
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.tokenizers import loading
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.weights import manifest
from nanogpt.weights.safe_loading import Array, Size, load_arrays, load_sizes
from nanogpt.weights.source import Source

CONFIG, BEST = "config.yaml", "best"
TABLE, POSITIONS = "token_embedding.weight", "position_embedding.weight"


class TrainedFolder(Source):
    """Such a folder. A file that changed since it was written raises CorruptFileError."""

    kind = "trained model"

    @cached_property
    def checkpoint(self) -> Path:
        """The folder of the weights."""
        if not (self.path / CONFIG).is_file():
            return self.path
        best = self.path / BEST
        manifest.finish_replacement(best)
        if not best.is_dir():
            raise UserError(f"{best}: there is no checkpoint yet; training writes one at its first evaluation")
        return best

    @cached_property
    def model_folder(self) -> Path:
        """The folder with the configuration and the tokenizer."""
        for folder in (self.path, self.path.parent, self.path.parent.parent):
            if (folder / CONFIG).is_file():
                return folder
        raise UserError(f"{self.path}: a checkpoint without its model's folder: no {CONFIG} in it or above it")

    def tokenizer(self) -> Tokenizer:
        return loading.load_tokenizer(self.model_folder)

    def files(self) -> list[Path]:
        return [self.checkpoint / manifest.WEIGHTS]

    def _written_config(self) -> ModelConfig:
        sizes = self._stored_sizes()
        if TABLE not in sizes:
            raise UserError(f"{self.path}: holds adapters alone; take best/ or final/ of the same training")
        shape = load_config(self.model_folder / CONFIG).model
        trained = manifest.read_manifest(self.checkpoint)["facts"].get("context", shape.block_size)
        context = min(shape.block_size, trained)  # a model knows nothing of positions beyond its longest window
        return shape.model_copy(update={"vocab_size": sizes[TABLE][0], "block_size": context})

    def _sizes(self, config: ModelConfig) -> dict[str, Size]:
        sizes = self._stored_sizes()
        if POSITIONS in sizes:
            sizes[POSITIONS] = (min(sizes[POSITIONS][0], config.block_size), *sizes[POSITIONS][1:])
        return sizes

    def _arrays(self, config: ModelConfig) -> dict[str, Array]:
        arrays = load_arrays(manifest.verified_files(self.checkpoint)[manifest.WEIGHTS])
        if POSITIONS in arrays:  # beyond those that were trained, they are noise
            arrays[POSITIONS] = arrays[POSITIONS][: config.block_size]
        return arrays

    def _stored_sizes(self) -> dict[str, Size]:
        path = self.checkpoint / manifest.WEIGHTS
        try:
            return load_sizes(path)
        except UserError as error:
            raise CorruptFileError(str(error)) from error
