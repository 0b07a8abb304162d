"""Torn and rotten files, at rest between two starts of a run."""

from __future__ import annotations

from pathlib import Path

from bench.faults.kind import Finding, Kind
from bench.faults.scene import Scene


def marker_with_a_flipped_bit(scene: Scene) -> Finding:
    """One bit in the middle of a finished step's marker is flipped."""
    flip_a_bit(scene.markers / "dataset.clean.json")
    scene.run()
    noticed = scene.noticed("dataset.clean: started", "marker is damaged|changed")
    return Finding(noticed, remedy="the step was done again")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


KINDS = [Kind("marker, one bit flipped", "files", marker_with_a_flipped_bit)]
