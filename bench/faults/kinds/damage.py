"""Ways in which a file that lies on a disk between two starts goes bad."""

from __future__ import annotations

import re
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


DAMAGES: tuple[Callable[[Path], None], ...] = (cut_short, zeroed, one_bit_flipped, deleted, made_unreadable)


def inflict_all(files: list[Path], turn: int) -> None:
    """Another damage for each file; in `len(DAMAGES)` turns every file meets every damage."""
    for number, file in enumerate(files):
        DAMAGES[(number + turn) % len(DAMAGES)](file)


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
