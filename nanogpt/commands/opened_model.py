"""The engine that a command's arguments name: what writing.add_writing() has added, opened."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

from nanogpt.commands.arguments import chosen_device, print_note
from nanogpt.commands.progress import progress_lines
from nanogpt.faults import UserError
from nanogpt.inference.engine import Engine
from nanogpt.measure.sizes import parameters
from nanogpt.units import count

HOW_TO_MAKE_ONE = "`python3 -m flows.full_run` makes one in exports/, `nanogpt train` in a folder that you name"
PLACES_LOOKED_AT, MODELS_NAMED = 5000, 4


def open_engine(arguments: argparse.Namespace, draft: Path | None = None) -> Engine:
    """The model in FOLDER, ready; `draft`: a smaller one, to guess for it. Raises UserError where none is there, and
    says where one is or what makes one."""
    for folder in filter(None, (arguments.folder, draft)):
        require_model(folder)
    device, noted = chosen_device(arguments.device), set[str]()
    line = f"loading {arguments.folder} ..."[: shutil.get_terminal_size().columns - 1]
    with progress_lines(line) if sys.stderr.isatty() else nullcontext() as show:

        def notify(note: str) -> None:
            if note in noted:  # two models may have the same to say
                return
            noted.add(note)
            if show is not None:
                show("")
            print_note(note)
            if show is not None:
                show(line)

        return Engine.from_folder(arguments.folder, device, arguments.backend, notify, arguments.precision, draft)


def description(engine: Engine, folder: Path) -> str:
    """The model and what computes it, in one line."""
    size = count(parameters(engine.decoder.config).total)
    return f"{folder}: {size} parameters, sees {engine.context:,} tokens, computed by {engine.decoder.description}"


def require_model(folder: Path) -> None:
    """Raise UserError where nothing is, or only models further down are: what to type instead."""
    folder = Path(os.path.expanduser(folder))
    if not os.path.lexists(folder):
        raise UserError(f"{folder}: there is no such file or folder; {HOW_TO_MAKE_ONE}")
    if folder.is_dir() and not _holds_model(folder) and (models := list(_models_below(folder))):
        models.sort(key=lambda model: ("exports" not in model.parts, model))
        named = ", ".join(map(str, models[:MODELS_NAMED]))
        raise UserError(f"{folder}: holds no model itself; {named}{', ...' * (len(models) > MODELS_NAMED)} would do")


def _holds_model(folder: Path) -> bool:
    is_export = (folder / "config.json").is_file()
    return is_export or (folder / "config.yaml").is_file() or (folder / "model.safetensors").is_file()


def _models_below(folder: Path) -> Iterator[Path]:
    for place, folders, files in islice(os.walk(folder), PLACES_LOOKED_AT):
        is_export = {"config.json", "model.safetensors"}.issubset(files)
        if is_export or ("config.yaml" in files and "best" in folders):
            yield Path(place)
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
