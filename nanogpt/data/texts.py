"""The text of the three splits, as it lies in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nanogpt.data.shard_file import Tokens
from nanogpt.tokenizers.tokenizer import Tokenizer

SPLITS = ("train", "val", "test")
STATISTICS = "statistics.json"
PIECES = "pieces"  # a folder there: the whole of a large text, of which train.txt is a sample
DOCUMENT_SEPARATOR = "\n\n"


def read_split(folder: Path, split: str) -> str:
    """The text of one split, exactly as `prepare` wrote it (no newline is translated)."""
    return (folder / f"{split}.txt").read_bytes().decode("utf-8")


def bytes_of(tokens: Tokens, tokenizer: Tokenizer) -> bytes:
    """The text of a split from its ids (T,): between documents, where ids have the end of a text, it has an empty
    line."""
    ids = np.asarray(tokens)
    ends = np.flatnonzero(ids == (-1 if tokenizer.end_of_text is None else tokenizer.end_of_text)).tolist()
    between = DOCUMENT_SEPARATOR.encode("ascii")
    return between.join(
        tokenizer.decode_bytes(ids[first:end].tolist())
        for first, end in zip([0, *(end + 1 for end in ends)], [*ends, len(ids)], strict=True)
    )
