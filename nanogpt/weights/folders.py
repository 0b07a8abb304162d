"""Which folders hold a model, and how each is opened: an export, or what the trainer leaves."""

from pathlib import Path
from typing import Any

from nanogpt.data.tokenizer import load_tokenizer
from nanogpt.export import huggingface
from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT
from nanogpt.training.initial_weights import CONFIG, TrainedFolder
from nanogpt.weights import checkpoint


def open_folder(folder: Path) -> tuple[GPT, Any]:
    """The model and tokenizer in an exported folder, or of the best checkpoint in a training folder.

    Raises UserError naming what is missing, CorruptFileError when a checkpoint is not what was written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; expected an exported or a trained model")
    if (folder / "config.json").is_file():
        model, tokenizer = huggingface.load(folder)
    elif (folder / CONFIG).is_file():
        model, tokenizer = open_trained(folder), load_tokenizer(folder)
    else:
        raise UserError(f"{folder}: holds no model: neither config.json of an export nor {CONFIG} of a training")
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size:,} tokens, its model only {model.config.vocab_size:,}"
        )
    return model, tokenizer


def open_trained(folder: Path) -> GPT:
    """The model of the best checkpoint in a training folder. Raises UserError when there is none yet."""
    source = TrainedFolder(folder)
    model = GPT(source.config)
    checkpoint.put_weights(model, source.weights(), str(source.checkpoint))
    return model.eval()


def export_trained(model_folder: Path, folder: Path, card: str | None = None) -> list[Path]:
    """huggingface.export() of the best checkpoint in a training folder; returns the files written to `folder`."""
    return huggingface.export(open_trained(model_folder), load_tokenizer(model_folder), folder, card)
