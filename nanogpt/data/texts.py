"""The text of the three splits, as it lies in a folder."""

from __future__ import annotations

from pathlib import Path

SPLITS = ("train", "val", "test")
STATISTICS = "statistics.json"
PIECES = "pieces"  # a folder there: the whole of a large text, of which train.txt is a sample
DOCUMENT_SEPARATOR = "\n\n"


def read_split(folder: Path, split: str) -> str:
    """The text of one split, exactly as `prepare` wrote it (no newline is translated)."""
    return (folder / f"{split}.txt").read_bytes().decode("utf-8")
