"""A person's own texts: the files of a folder, without what this project or a tool wrote."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from nanogpt.faults import UserError, nearest
from nanogpt.sources import decoding, hub_address, outputs
from nanogpt.sources.catalogue import CATALOGUE, EMBEDDED, UNKNOWN
from nanogpt.spelling import path_of, spelled

TEXT_SUFFIXES = (".txt", ".md")


@dataclass(frozen=True)
class Found:
    """A person's own texts, and the folders among them that hold output instead of text."""

    documents: list[Path]
    left_out: list[Path]


def name_of(source: str) -> str:
    """What a source is called where others may read it: of a person's own text, the last part of its path."""
    if source in CATALOGUE or source == EMBEDDED or hub_address.is_hub_address(source):
        return source
    path = os.path.abspath(own_path(source))
    if path == os.path.abspath(os.path.expanduser("~")):
        return "home"  # its last part is who they are
    name = spelled(os.path.basename(path)) or UNKNOWN
    return f"{name} (own)" if name in CATALOGUE or name == EMBEDDED else name


def own_documents(source: str) -> list[Path]:
    """The files of a source that is a person's own. Raises UserError when there are none."""
    return find_own(source).documents


def find_own(source: str) -> Found:
    """The texts of a source that is a person's own, without what this project or a tool wrote. Raises UserError."""
    path = own_path(source)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        _refuse_unknown(source, path)
    except (OSError, ValueError) as error:  # too long, a link to itself, not to be seen; a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"data.source: {spelled(source)[:100]} cannot be read ({reason})") from None
    if path.is_file():
        _refuse_output(path, path.parent)
        return Found([path], [])
    if path.is_dir():
        _refuse_output(path, path)
        return _texts_in(path)
    raise UserError(f"data.source: {spelled(source)} is neither a plain file nor a folder")


def _refuse_unknown(source: str, path: Path) -> NoReturn:
    if path.suffix or os.sep in source:
        raise UserError(f"data.source: there is no file or folder {spelled(source)}")
    known = [*CATALOGUE, EMBEDDED]
    raise UserError(
        f"data.source: {spelled(source)} is neither a file, a folder, nor one of {', '.join(known)}"
        f"{nearest(source, known)}"
    )


def _refuse_output(path: Path, folder: Path) -> None:
    """Raise UserError for a text or a folder that this project wrote: learned from, test text would be trained on."""
    written = outputs.marked_parent(folder / "anything")
    if written is None and outputs.is_written(os.listdir(folder)):
        written = folder
    if written is not None:
        raise UserError(
            f"data.source: {spelled(path)} is output ({spelled(written)} was written by nanogpt); name the text that "
            "it was made from"
        )


def _texts_in(folder: Path) -> Found:
    """Every non-empty *.txt and *.md below `folder`, hidden ones left out, in the order of their paths."""
    documents, left_out = [], []
    for place, folders, files in os.walk(folder, onerror=_refuse_unreadable):
        here = Path(place)
        if here != folder and outputs.is_left_out(here, [*folders, *files]):
            left_out.append(here)
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        documents += [
            here / name
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in TEXT_SUFFIXES and _has_bytes(here / name)
        ]
    if not documents:
        output = f"; {len(left_out):,} folders with output of nanogpt or of tools are left out" if left_out else ""
        raise UserError(
            f"data.source: the folder {spelled(folder)} holds no text (looked for non-empty *.txt and *.md{output})"
        )
    return Found(sorted(documents), sorted(left_out))


def _has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise UserError(f"data.source: {spelled(error.filename)} cannot be read ({error.strerror})") from error


def check_document(path: Path, encoding: str) -> None:
    """Look at the first text in a file. Raises UserError when there is none, or what is there is not text."""
    try:
        with open(path, "rb") as file:
            head = next((piece for piece in iter(lambda: file.read(decoding.HEAD), b"") if piece.strip()), b"")
    except OSError as error:
        raise UserError(f"data.source: {spelled(path)} cannot be read ({error.strerror})") from error
    if not head:
        raise UserError(f"data.source: {spelled(path)} is empty")
    decoding.decode(head, path, encoding)


def own_path(place: str) -> Path:
    """A path as a person or `spelled` wrote it; unlike Path.expanduser, a user that does not exist is no error yet."""
    path = Path(os.path.expanduser(place))
    return path if os.path.lexists(path) or "\\" not in place else path_of(str(path))
