"""The models that lie in an export, a training or a workspace, described without opening them or importing torch."""

from __future__ import annotations

import json
import math
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import yaml

from nanogpt import durable
from nanogpt.faults import UserError

Kind = Literal["export", "best", "final", "step"]
EXPORT_CONFIG, TRAINING_CONFIG, MANIFEST = "config.json", "config.yaml", "manifest.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
OTHER_PROGRAMS = ("-gguf", "-onnx", "-mlx")  # endings of folders that an export makes for them
SHELVES = ("exports", "checkpoints")  # what a workspace keeps its models in
DEEPEST = 3  # folders between a path and its models: exports/RUN/MODEL
LONGEST_HEADER = 64 << 20  # bytes; a header of more is damaged


@dataclass(frozen=True)
class FoundModel:
    """A model on disk. `version` changes when its weights are written anew. None: the place does not say."""

    id: str
    path: Path
    kind: Kind
    run: str
    model: str
    step: int | None
    parameters: int | None
    block_size: int | None
    version: tuple[int, int, int]
    changed: int  # seconds since 1970


def find_models(paths: Sequence[Path], *, missing_ok: bool = False) -> list[FoundModel]:
    """The models at `paths`, each with an id of its own. Raises UserError for a path without any, unless missing_ok."""
    found: dict[str, FoundModel] = {}
    seen: set[Path] = set()
    for path in paths:
        models = list(_models_in(path, DEEPEST))
        if not models and not missing_ok:
            raise UserError(_nothing_in(path))
        for model in models:
            if model.path not in seen:
                seen.add(model.path)
                name = next(name for name in _names(model.id) if name not in found)
                found[name] = replace(model, id=name)
    return list(found.values())


def version_of(path: Path) -> tuple[int, int, int] | None:
    """Inode, size and time of the weights at `path`; None when there are none (any more)."""
    for file in (path, *(path / name for name in WEIGHTS)):
        try:
            status = file.stat()
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            return status.st_ino, status.st_size, status.st_mtime_ns
    return None


def _names(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


# os.path's questions are answered with no where a folder may not be read; Path's raise PermissionError.


def _models_in(path: Path, depth: int) -> Iterator[FoundModel]:
    path = Path(os.path.abspath(os.path.expanduser(path)))
    if os.path.isfile(path):
        yield from _described(path, "export", path.parent.name, path.stem, f"{path.parent.name}/{path.stem}")
    elif os.path.isfile(path / TRAINING_CONFIG):
        yield from _of_training(path)
    elif os.path.isfile(path / EXPORT_CONFIG):
        if not path.name.endswith(OTHER_PROGRAMS):
            yield from _described(path, "export", path.parent.name, path.name, f"{path.parent.name}/{path.name}")
    elif os.path.isfile(path / MANIFEST):
        yield from _checkpoint(path, _training_above(path))
    elif depth > 0 and os.path.isdir(path):
        shelves = [path / name for name in SHELVES if os.path.isdir(path / name)]
        for folder in shelves or _folders_in(path):
            yield from _models_in(folder, depth - (not shelves))


def _of_training(folder: Path) -> Iterator[FoundModel]:
    for name in ("best", "final"):
        yield from _checkpoint(folder / name, folder)
    for step in _folders_in(folder / "checkpoints"):
        yield from _checkpoint(step, folder)


def _folders_in(folder: Path) -> list[Path]:
    """The folders in `folder`, by name; none where it is not there, or gone meanwhile."""
    try:
        return sorted(path for path in folder.iterdir() if os.path.isdir(path) and not path.name.startswith("."))
    except OSError:
        return []


def _checkpoint(folder: Path, training: Path) -> Iterator[FoundModel]:
    """A checkpoint of `training`."""
    kind: Kind = "best" if folder.name == "best" else "final" if folder.name == "final" else "step"
    name = f"{training.parent.name}/{training.name}@{folder.name}"
    if os.path.isfile(folder / MANIFEST):
        yield from _described(folder, kind, training.parent.name, training.name, name)


def _training_above(folder: Path) -> Path:
    above = (folder.parent, folder.parent.parent)
    return next((path for path in above if os.path.isfile(path / TRAINING_CONFIG)), folder.parent)


def _described(path: Path, kind: Kind, run: str, model: str, name: str) -> Iterator[FoundModel]:
    version = version_of(path)
    if version is not None:
        step, parameters, block_size = _figures(path, version)
        changed = version[2] // 1_000_000_000
        name, run, model = map(as_text, (name, run, model))
        yield FoundModel(name, path, kind, run, model, step, parameters, block_size, version, changed)


def as_text(name: object) -> str:
    """The name of a file as JSON can state it: bytes that are no UTF-8 as escapes."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


@lru_cache(maxsize=10_000)
def _figures(path: Path, version: tuple[int, int, int]) -> tuple[int | None, int | None, int | None]:
    """Step, parameters and block size of a model, read once while its weights stay as they are."""
    return _step(path), _parameters(path), _block_size(path, _training_above(path))


def _step(path: Path) -> int | None:
    step = _read(path / MANIFEST).get("step")
    return step if isinstance(step, int) else None


def _block_size(path: Path, training: Path) -> int | None:
    config = _read(path / EXPORT_CONFIG)
    shape = _read(training / TRAINING_CONFIG).get("model")
    facts = _read(path / MANIFEST).get("facts")
    found = [config.get("max_position_embeddings"), config.get("n_positions")]
    found += [shape.get("block_size") if isinstance(shape, dict) else None]
    found += [facts.get("context") if isinstance(facts, dict) else None]  # it knows no position beyond this
    return min((size for size in found if isinstance(size, int)), default=None)


def _read(file: Path) -> dict[str, object]:
    """A JSON or YAML mapping; empty where there is none: what is damaged is reported when the model is opened."""
    try:
        text = durable.read_text(file)
        content = json.loads(text) if file.suffix == ".json" else yaml.load(text, _YAML)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _parameters(path: Path) -> int | None:
    """How many numbers a safetensors file holds, from its header."""
    try:
        with durable.open_plain(path / WEIGHTS[0]) as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LONGEST_HEADER:
                return None
            header = json.loads(file.read(length))
        return sum(int(math.prod(entry["shape"])) for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, ArithmeticError, KeyError, TypeError, AttributeError, struct.error, RecursionError):
        return None


def _nothing_in(path: Path) -> str:
    if not os.path.lexists(os.path.expanduser(path)):
        return f"{path}: there is no such file or folder"
    return (
        f"{path}: holds no model yet; `python -m flows.full_run` makes one from nothing, `nanogpt train` from your "
        "text, `nanogpt export` from a training"
    )
