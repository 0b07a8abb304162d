"""Folders that this project and its tools wrote: never a text to learn from, or a second run reads what the first made.

`mark` puts a small hidden file into a folder that holds nothing but output. Folders of older versions, environments and
caches are known by the files in them. A data folder is not marked: a person's text may lie in it (`prepare D --out D`),
and its own `text` and `downloads` are.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from nanogpt import durable

MARK = ".written-by-nanogpt"
NOTE = "Written by nanogpt-autopilot. No text in this folder is learned from (nanogpt/sources/outputs.py).\n"
_WRITTEN = (  # all files of one of these
    {"train.txt", "val.txt", "statistics.json"},  # what corpus.preparation makes of a text
    {"config.yaml", "metrics.jsonl"},  # a training
    {"manifest.json", "model.safetensors"},  # a checkpoint
    {"config.json", "model.safetensors"},  # an export, or a model from elsewhere
    {"adapter_config.json", "adapter_model.safetensors"},
    {"session.json", "markers"},  # the state of a run
    {"clock.json", "timeline.jsonl"},  # as it begins
    {"automation_log.txt"},
    {"training_report.md", "training_report.html"},
)
_OF_TOOLS = ({"pyvenv.cfg"}, {"CACHEDIR.TAG"})
_NAMES_OF_TOOLS = ("__pycache__", "node_modules", "CVS")
_SUFFIXES_OF_TOOLS = (".egg-info", ".dist-info")


def mark(folder: Path) -> None:
    """Make `folder` if it is not there, and let every search for texts leave it out. Raises OSError."""
    if not (folder / MARK).exists():
        durable.write_text(folder / MARK, NOTE)


def is_written(names: Collection[str]) -> bool:
    """Whether a folder that holds `names` was written by this project."""
    return MARK in names or any(files <= set(names) for files in _WRITTEN)


def is_left_out(folder: Path, names: Collection[str]) -> bool:
    """Whether a search for texts leaves out `folder`, which holds `names`."""
    return (
        is_written(names)
        or any(files <= set(names) for files in _OF_TOOLS)
        or folder.name in _NAMES_OF_TOOLS
        or folder.suffix in _SUFFIXES_OF_TOOLS
        or (folder.name == "downloads" and bool({"tinyshakespeare.txt", "embedded.txt", "embedded.jsonl"} & set(names)))
    )


def marked_parent(path: Path) -> Path | None:
    """The nearest folder above `path` that has the mark."""
    return next((folder for folder in Path(os.path.realpath(path)).parents if (folder / MARK).exists()), None)
