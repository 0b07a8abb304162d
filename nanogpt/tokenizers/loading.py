"""A tokenizer from the folder that it was saved in."""

from __future__ import annotations

from pathlib import Path

from nanogpt import durable
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.tokenizers.byte_pairs import BPETokenizer
from nanogpt.tokenizers.character_bytes import CharBytesTokenizer, is_char_bytes
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.tokenizer import FILE, HF_FILE, Json, Tokenizer

MOST_IDS = 1 << 22  # sixteen times those of the largest vocabularies that are published


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer saved in `folder`. Raises UserError when there is none, CorruptFileError when it is not one."""
    return read_tokenizer(Path(folder) / FILE)


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json, with what a tokenizer_config.json next to it says. As load_tokenizer."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected the folder of a tokenizer, a model or data")
    try:
        return _of_json(durable.read_json(path), _settings(path.with_name(HF_FILE)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"{path} is not a tokenizer ({error})") from error


def _of_json(content: Json, settings: Json) -> Tokenizer:
    """Raises AttributeError, KeyError, TypeError, ValueError for what is no tokenizer."""
    _check_ids(content)
    if content["model"]["type"] == "WordLevel":
        return CharTokenizer.from_json(content)
    if is_char_bytes(content):
        return CharBytesTokenizer.from_json(content)
    # tokenizers: 10 to 25 ms that characters do not need
    from nanogpt.tokenizers.any_file import LibraryTokenizer, in_parts, is_byte_pairs

    content = in_parts(content)
    return BPETokenizer.from_json(content, settings) if is_byte_pairs(content) else LibraryTokenizer(content, settings)


def _check_ids(content: Json) -> None:
    """Raise ValueError for an id that no model has a row for: tables of all ids would fill the memory."""
    vocabulary = content["model"].get("vocab")
    ids = [*(vocabulary.values() if isinstance(vocabulary, dict) else ())]
    highest = max([0, *ids, *(token["id"] for token in content.get("added_tokens") or ())])
    if highest >= MOST_IDS:
        raise ValueError(f"it has the id {highest:,}; the largest that is possible here is {MOST_IDS - 1:,}")


def _settings(path: Path) -> Json:
    """What a tokenizer_config.json says; nothing where it cannot be read: only the end of a text hangs on it."""
    try:
        content = durable.read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
