"""A tokenizer from the folder that it was saved in."""

from __future__ import annotations

from pathlib import Path

from nanogpt import durable
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.tokenizers.byte_pairs import BPETokenizer
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.tokenizer import FILE, Tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer saved in `folder`. Raises UserError when there is none, CorruptFileError when it is not one."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected the folder of a tokenizer, a model or data")
    try:
        content = durable.read_json(path)
        if content["model"]["type"] == "WordLevel":
            return CharTokenizer.from_json(content)
        return BPETokenizer.from_json(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"{path} is not a tokenizer of characters or byte pairs ({error})") from error
