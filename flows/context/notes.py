"""The small JSON files of state/: each knows its own digest, so that a bit that flipped in one of them is noticed."""

from __future__ import annotations

from pathlib import Path

from nanogpt import durable

DIGEST = "sha256"


def write(path: Path, note: dict) -> None:
    """Replace `path` by `note` and its digest, durably; a folder that stands there is set aside. Raises OSError."""
    durable.unblock(path)
    durable.write_json(path, {**note, DIGEST: durable.digest(note)})


def read(path: Path) -> tuple[dict | None, str]:
    """The note at `path`, and what is wrong with it: (None, "") if there is none.

    One without a digest is believed: notes had none once.
    """
    try:
        note = durable.read_json(path)
    except FileNotFoundError:
        return (None, "it is a link to nothing") if path.is_symlink() else (None, "")
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        return None, f"it cannot be read: {reason}"
    if not isinstance(note, dict):
        return None, "it is no JSON object"
    written = note.pop(DIGEST, None)
    if written is not None and written != durable.digest(note):
        return None, "it changed after it was written (sha256 differs)"
    return note, ""
