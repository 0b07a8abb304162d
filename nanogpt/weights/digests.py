"""SHA256SUMS: what the weights in an exported folder were when they were written; `sha256sum -c SHA256SUMS` reads it.

safetensors, GGUF and ONNX carry no digest of their own, and programs load a flipped bit without a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from nanogpt import durable
from nanogpt.faults import CorruptFileError

FILE = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def write(folder: Path, digests: Mapping[str, str]) -> None:
    """State the hexadecimal sha256 of each file of weights by its name. It is written before the weights are there."""
    durable.write_text(folder / FILE, "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())))


def read(folder: Path) -> dict[str, str]:
    """What FILE states of the files in `folder`; empty where it is missing, as in older exports and others' folders."""
    try:
        lines = durable.read_text(folder / FILE).splitlines()
    except (OSError, ValueError):
        return {}
    return {found[2]: found[1] for found in map(LINE.fullmatch, lines) if found}


def check(path: Path) -> None:
    """Raise CorruptFileError unless `path` is what FILE next to it states; what that does not name is believed."""
    expected = read(path.parent).get(path.name)
    if expected is not None and durable.sha256_file(path) != expected:
        raise CorruptFileError(
            f"{path}: damaged, or written anew by another program: its sha256 is not the one in {FILE}; export the "
            f"model again, or remove {FILE} if the change was meant"
        )
