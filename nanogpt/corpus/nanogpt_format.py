"""nanoGPT's data folders as ours: train.bin and val.bin (uint16 ids, no header), and meta.pkl with the characters.

val.bin stays whole, so that losses compare with nanoGPT's. nanoGPT has no test split, and none is made up: asking for
one is an error. Ids keep their meaning, so a ckpt.pt trained on the folder fits the imported data.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nanogpt import durable
from nanogpt.data import shards
from nanogpt.data.shard_file import MAGIC
from nanogpt.faults import UserError
from nanogpt.results.text import TokenSplit
from nanogpt.sources import own
from nanogpt.sources.part import Notify, say_nothing
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.published import gpt2_tokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer

META = "meta.pkl"
SPLITS = ("train", "val")
CONTINUATION = range(0x80, 0xC0)  # bytes of UTF-8 that begin no character


def import_folder(
    source: Path, out_folder: Path, mirrors: Sequence[str] = (), notify: Notify = say_nothing
) -> shards.Manifest:
    """Write the data folder `out_folder` from nanoGPT's `source`; returns its manifest.

    Without meta.pkl the ids are GPT-2's, as they are for nanoGPT. Raises UserError.
    """
    ids = {split: _read_ids(source / f"{split}.bin") for split in SPLITS}
    meta = source / META
    tokenizer = _read_tokenizer(meta) if meta.is_file() else gpt2_tokenizer(out_folder, mirrors, notify)
    splits = {split: (tokens, _sizes(tokens, tokenizer, source / f"{split}.bin")) for split, tokens in ids.items()}
    digests = {split: durable.sha256_file(source / f"{split}.bin") for split in SPLITS}
    name = own.name_of(str(source))
    return shards.write_folder(out_folder, tokenizer, splits, durable.digest(digests), source=name)


def _read_ids(path: Path) -> npt.NDArray[np.uint16]:
    """(T,) ids, read from the disk as needed."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; expected a data folder of nanoGPT (train.bin, val.bin)")
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            raise UserError(f"{path}: is in this project's own format already")
    if size % 2 or size < 4:
        raise UserError(f"{path}: has {size:,} bytes; expected uint16 ids, two bytes each")
    return np.memmap(path, dtype="<u2", mode="r")


def _sizes(ids: npt.NDArray[np.uint16], tokenizer: Tokenizer, path: Path) -> TokenSplit:
    """Tokens of a split, and bytes and characters of its text, from how often each id occurs."""
    counts = shards.count_tokens(ids, tokenizer.vocab_size)
    if len(counts) > tokenizer.vocab_size:
        raise UserError(f"{path}: has the id {len(counts) - 1}, but the vocabulary has {tokenizer.vocab_size:,} tokens")
    ends = {tokenizer.end_of_text}  # between texts, and no part of one
    pieces = [b"" if index in ends else tokenizer.decode_bytes([index]) for index in range(tokenizer.vocab_size)]
    sizes = np.array([len(piece) for piece in pieces])
    begun = np.array([sum(byte not in CONTINUATION for byte in piece) for piece in pieces])  # characters that begin
    return TokenSplit(tokens=len(ids), bytes=int(counts @ sizes), characters=int(counts @ begun))


def _read_tokenizer(path: Path) -> CharTokenizer:
    meta = _load_plain(path)
    characters = meta.get("itos") if isinstance(meta, dict) else None
    if not isinstance(characters, dict) or sorted(map(str, characters)) != sorted(map(str, range(len(characters)))):
        raise UserError(f"{path}: expected itos, a character for each id from 0 on")
    found = [characters.get(index) for index in range(len(characters))]
    ordered = [character for character in found if isinstance(character, str) and _is_character(character)]
    if len(ordered) < len(found):
        raise UserError(f"{path}: its tokens are not single characters")
    if len(set(ordered)) != len(ordered):
        raise UserError(f"{path}: two ids have the same character")
    return CharTokenizer(ordered, closed=True)


def _is_character(text: str) -> bool:
    return len(text) == 1 and not "\ud800" <= text <= "\udfff"  # surrogates, which no text has


def _load_plain(path: Path) -> Any:
    """What is pickled at `path`, if it is containers, text and numbers alone. Raises UserError."""
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {error}") from None
    except (EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError, MemoryError) as error:
        raise UserError(f"{path}: is not a whole pickle ({type(error).__name__})") from None


class _PlainUnpickler(pickle.Unpickler):
    """Containers, text and numbers are instructions of a pickle; anything found by a name could be code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(
            f"names {module}.{name} among plain values; refused, because loading it may run code"
        )
