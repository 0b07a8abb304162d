"""What the trainer leaves: a model's folder, of which best/ is taken, or one checkpoint in it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from torch import Tensor

from nanogpt.config import ModelConfig, load_config
from nanogpt.data import tokenizer as tokenizers
from nanogpt.data.tokenizer import Tokenizer
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.weights import checkpoint
from nanogpt.weights.safe_loading import load_tensors
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
        checkpoint.finish_replacement(best)
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
        return tokenizers.load_tokenizer(self.model_folder)

    def files(self) -> list[Path]:
        return [self.checkpoint / checkpoint.WEIGHTS]

    def _written_config(self) -> ModelConfig:
        sizes = self._sizes()
        if TABLE not in sizes:
            raise UserError(f"{self.path}: holds adapters alone; take best/ or final/ of the same training")
        shape = load_config(self.model_folder / CONFIG).model
        trained = checkpoint.read_manifest(self.checkpoint)["facts"].get("context", shape.block_size)
        context = min(shape.block_size, trained)  # a model knows nothing of positions beyond its longest window
        return shape.model_copy(update={"vocab_size": sizes[TABLE].size(0), "block_size": context})

    def _tensors(self, config: ModelConfig, *, sizes_only: bool) -> dict[str, Tensor]:
        tensors = self._sizes() if sizes_only else checkpoint.load(self.checkpoint).weights
        weights = {name: tensor.float() for name, tensor in tensors.items()}
        if POSITIONS in weights:
            weights[POSITIONS] = weights[POSITIONS][: config.block_size]
        return weights

    def _sizes(self) -> dict[str, Tensor]:
        """The tensors of the weights' file on the meta device."""
        path = self.checkpoint / checkpoint.WEIGHTS
        try:
            return load_tensors(path, sizes_only=True)
        except UserError as error:
            raise CorruptFileError(str(error)) from error
