"""Where an export may be written: nothing but an earlier export of the same kind is ever written over."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from pathlib import Path

from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.weights import trained_folder

NOT_OURS = {".DS_Store"}  # what a Mac's Finder leaves in any folder that it shows

OF_A_TRAINING = (trained_folder.BEST, "metrics.jsonl")  # next to its configuration


def require_target(
    folder: Path, names: Collection[str], is_ours: Callable[[Path], bool], sources: Collection[Path]
) -> None:
    """Raise UserError unless `folder` is new, empty, or holds nothing but files of `names` and is_ours().

    Files of an export in a folder of anything else would be taken for what that folder is, or replace its own. It may
    not lie in one of `sources`, nor in a training: what is in there belongs to the trainer.
    """
    place = _real(folder)
    for source in sources:
        if place == _real(source):
            raise UserError(f"--out {folder}: is the folder that is read; choose another")
    for above in (place, *place.parents):
        if (above / trained_folder.CONFIG).is_file() and any((above / name).exists() for name in OF_A_TRAINING):
            raise UserError(f"--out {folder}: is in the training folder {above}; choose a place outside it")
        if any(above == _real(source) for source in sources):
            raise UserError(f"--out {folder}: is in {above}, which is read; choose a place outside it")
    if os.path.lexists(folder) and not place.is_dir():
        raise UserError(f"--out {folder}: is a file, or a link to nothing; choose a folder")
    if not place.is_dir():
        return
    found = {path.name for path in place.iterdir() if not (path.name.startswith(".") and path.name.endswith(".tmp"))}
    found -= {f"{name}{durable.DAMAGED}" for name in names}
    other = sorted(found - set(names) - NOT_OURS)
    if other or (found - NOT_OURS and not is_ours(place)):
        held = f"holds {other[0]}" if other else "holds files that were not written by an export"
        raise UserError(f"--out {folder}: {held}; choose a new or empty folder, or an earlier export to replace")


def make_way(
    folder: Path, names: Collection[str], is_ours: Callable[[Path], bool], sources: Collection[Path] = ()
) -> None:
    """Set aside, under the time of day, what stands at `folder` and is no such export; for a place that is the
    caller's own."""
    try:
        require_target(folder, names, is_ours, sources)
    except UserError:
        if os.path.lexists(folder):
            durable.set_aside(folder, time.strftime(".%Y%m%d-%H%M%S"))


def _real(path: Path) -> Path:
    """Without links. A link to itself stays one, where Path.resolve() raises RuntimeError."""
    return Path(os.path.realpath(path))
