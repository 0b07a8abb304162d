"""How a place that holds a model is opened as a GPT. What needs no torch is in sources.py."""

from __future__ import annotations

from pathlib import Path

from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.weights import checkpoint
from nanogpt.weights.source import Source
from nanogpt.weights.sources import digest_of as digest_of  # part of this module's interface
from nanogpt.weights.sources import source_at as source_at
from nanogpt.weights.sources import tokenizer_of
from nanogpt.weights.trained_folder import TrainedFolder


def open_folder(path: Path | str) -> tuple[GPT, Tokenizer]:
    """The model and tokenizer in an exported folder, or of the best checkpoint in a training folder.

    Raises UserError naming what is missing, CorruptFileError when a checkpoint is not what was written.
    """
    source = source_at(path)
    tokenizer = tokenizer_of(source)
    return model_of(source), tokenizer


def open_trained(folder: Path) -> GPT:
    """The model of the best checkpoint in a training folder. Raises UserError before the first one."""
    return model_of(TrainedFolder(folder))


def model_of(source: Source) -> GPT:
    """The model, ready to decode. Raises as Source does."""
    model = GPT(source.config, seed=None)
    checkpoint.put_weights(model, source.weights(), str(source.path))
    return model.eval()
