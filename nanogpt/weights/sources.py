"""Which places hold a model: what the trainer leaves, an export, nanoGPT's ckpt.pt."""

from __future__ import annotations

import os
from pathlib import Path

from nanogpt.faults import UserError
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.weights import hugging_face, manifest, trained_folder
from nanogpt.weights.hugging_face import HuggingFaceFolder
from nanogpt.weights.nanogpt_checkpoint import NanoGPTCheckpoint
from nanogpt.weights.source import Source
from nanogpt.weights.trained_folder import TrainedFolder

FOR_OTHERS = {  # an export's file of weights, and what opens it
    "model.gguf": "llama.cpp and Ollama",
    "model.onnx": "onnxruntime",
}


def source_at(path: Path | str) -> Source:
    """What lies at `path`. Raises UserError when it is nothing that weights can be read from.

    Where a training and an export share a folder, the training counts: the export is never newer than it.
    """
    path = Path(os.path.expanduser(path))  # unlike Path's own, it leaves a user who does not exist
    if path.is_file():
        return NanoGPTCheckpoint(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such file or folder")
    if (path / trained_folder.CONFIG).is_file():
        return TrainedFolder(path)
    for name, programs in FOR_OTHERS.items():
        if (path / name).is_file():
            raise UserError(
                f"{path}: is an export for {programs}; nanogpt opens the folder that it was made of, or its Hugging "
                "Face export (nanogpt export --to hf)"
            )
    if (path / hugging_face.CONFIG).is_file():
        return HuggingFaceFolder(path)
    if (path / manifest.MANIFEST).is_file():
        return TrainedFolder(path)
    raise UserError(
        f"{path}: holds no model; expected a model's training folder, a Hugging Face folder of a GPT-2 or Qwen3 such "
        "as an export, or nanoGPT's ckpt.pt"
    )


def digest_of(path: Path | str) -> str:
    """Hexadecimal sha256 of the weights at `path` and their shape. Raises UserError."""
    return source_at(path).digest()


def tokenizer_of(source: Source) -> Tokenizer:
    """What the ids of a model mean. Raises UserError where nothing says so, and for more ids than the model has."""
    vocab_size, tokenizer = source.vocab_size, source.tokenizer()
    if tokenizer is None:
        raise UserError(f"{source.path}: has no tokenizer; nothing says which text its tokens stand for")
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"{source.path}: its tokenizer has {tokenizer.vocab_size:,} tokens, its model only {vocab_size:,}"
        )
    return tokenizer
