"""What may stand where a file belongs, and is none: reading it fails, never ends or never begins."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").touch()  # else a rename would take its place


KINDS: dict[str, Callable[[Path], None]] = {
    "folder": _folder,
    "link loop": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
}
if hasattr(os, "mkfifo"):
    KINDS["FIFO"] = os.mkfifo

each_kind = pytest.mark.parametrize("put", KINDS.values(), ids=KINDS)  # put(path)
NO_FOLDERS = {"file": Path.touch, **{kind: KINDS[kind] for kind in KINDS if kind not in ("folder", "link to nothing")}}
in_place_of_a_folder = pytest.mark.parametrize("put", NO_FOLDERS.values(), ids=NO_FOLDERS)
