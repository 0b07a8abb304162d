"""The list of a checkpoint's files with their sha256, by which its reader knows that each byte is as it was written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from nanogpt import durable
from nanogpt.faults import CorruptFileError

WEIGHTS, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`: {"step", "facts", "files"}. Raises CorruptFileError when any of its bytes changed."""
    path = folder / MANIFEST
    try:
        text = durable.read_bytes(path)
        manifest: dict[str, Any] = json.loads(text)
        digest = manifest.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CorruptFileError(f"{path}: is not a manifest ({error})") from error
    if digest != durable.digest(manifest) or text != manifest_bytes(manifest):
        raise CorruptFileError(f"{path}: is not what was written")
    return manifest


def verified_files(folder: Path) -> dict[str, Path]:
    """The files of a checkpoint by their names. Raises CorruptFileError when one byte of them is not as written."""
    found = {}
    for name, expected in read_manifest(folder)["files"].items():
        path = folder / name
        try:
            is_whole = path.is_file() and _fingerprint(path) == expected
        except OSError as error:
            if error.errno != errno.EIO:  # of lost permissions, nothing is damaged
                raise
            raise CorruptFileError(f"{path}: cannot be read ({error.strerror})") from error  # a bad block of the disk
        if not is_whole:
            raise CorruptFileError(f"{path}: is not what its manifest says")
        found[name] = path
    return found


def finish_replacement(folder: Path) -> None:
    """Mend a replacement that was cut between its two renames: the old one is still whole, so it comes back."""
    old = folder.with_name(f".{folder.name}.old")
    if old.is_dir() and not folder.exists():
        os.replace(old, folder)


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """What is written of it."""
    whole = {**manifest, "sha256": durable.digest(manifest)}
    return (json.dumps(whole, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": durable.sha256_file(path)}
