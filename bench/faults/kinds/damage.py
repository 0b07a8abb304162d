"""Ways in which a file that lies on a disk between two starts goes bad."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.faults.stage.scene import Scene


def cut_short(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def one_bit_flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def deleted(file: Path) -> None:
    file.unlink()


def made_unreadable(file: Path) -> None:
    """A link to itself: whoever opens it gets an error, root too, whom no rights keep out."""
    file.unlink()
    file.symlink_to(file.name)


def made_a_fifo(file: Path) -> None:
    """Whoever opens it to read waits for a writer, for ever."""
    file.unlink()
    os.mkfifo(file)


def made_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "inside").write_text("of somebody")


def made_a_device(file: Path) -> None:
    """A link to one that is always empty and takes whatever is written."""
    file.unlink()
    file.symlink_to(os.devnull)


def made_a_socket(file: Path) -> None:
    file.unlink()
    with socket.socket(socket.AF_UNIX) as end:
        short = tempfile.mktemp(prefix="fault-")  # no path of a socket may be longer than 107 bytes
        end.bind(short)
        os.rename(short, file)


Damage = Callable[[Path], None]
DAMAGES: tuple[Damage, ...] = (cut_short, zeroed, one_bit_flipped, deleted, made_unreadable)
NO_FILES: tuple[Damage, ...] = (made_a_fifo, made_a_folder, made_a_device, made_unreadable, made_a_socket)


def inflict_all(files: list[Path], turn: int, damages: tuple[Damage, ...] = DAMAGES) -> None:
    """Another damage for each file; in `len(damages)` turns every file meets every damage."""
    for number, file in enumerate(files):
        damages[(number + turn) % len(damages)](file)


def named(scene: Scene, files: list[Path]) -> str:
    """The line that names the first of the damaged files. Raises NotSurvived when one of them is not named."""
    lines = [scene.noticed(_name(scene, file)) for file in files]
    return lines[0]


def _name(scene: Scene, file: Path) -> str:
    """What a person would look for, as a regular expression: a step, a checkpoint's folder, or the path."""
    if file.parent == scene.markers:
        return f"{re.escape(file.stem)}: (started|.*marker is)"
    if file.is_relative_to(scene.checkpoints):
        return re.escape(file.parent.name) + ".*" + re.escape(file.name)
    return re.escape(str(file.relative_to(scene.workspace)))
