"""A person's own texts: files, folders, patterns and standard input, without what this project or a tool wrote."""

from __future__ import annotations

import glob
import itertools
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

from nanogpt import durable
from nanogpt.config import SMALL_TEXT
from nanogpt.faults import UserError, nearest
from nanogpt.sources import decoding, hub_address, outputs, reading
from nanogpt.sources.account import Account
from nanogpt.sources.catalogue import CATALOGUE, EMBEDDED, UNKNOWN
from nanogpt.sources.formats.family import Wanted
from nanogpt.spelling import path_of, spelled

STANDARD_INPUT = "-"
FORMATS = "non-empty .txt, .md, .jsonl, .csv, .tsv, .parquet, .html, .epub, .pdf, .zip, and .gz and .zst of them"
NAMED_ONLY = ("json",)  # a folder's .json files are settings far more often than texts
FEW_FILES = 10_000  # of a small source: each is read by this process alone
_PATTERN = frozenset("*?[")
_BEGINNINGS = {b"PAR1": ".parquet", b"PK\3\4": ".zip", b"\x1f\x8b": ".txt.gz", b"\x28\xb5\x2f\xfd": ".txt.zst",
               b"%PDF": ".pdf", b'{"': ".jsonl"}  # fmt: skip


class File(NamedTuple):
    """A file that holds texts. `name`: its path below the source's folder, or below `root`."""

    root: str
    name: str
    size: int  # bytes
    modified: int  # nanoseconds

    @property
    def path(self) -> Path:
        return Path(self.root, self.name)


@dataclass
class Search:
    """What a search for texts came by and left out."""

    account: Account = field(default_factory=Account)
    outputs: list[Path] = field(default_factory=list)  # folders that this project or a tool wrote


@dataclass(frozen=True)
class Found:
    """A person's own texts, the folders among them that hold output instead of text, and what else is no text."""

    documents: list[Path]
    left_out: list[Path]
    others: Account


def name_of(source: str) -> str:
    """What a source is called where others may read it: of a person's own text, the last part of its path."""
    if source in CATALOGUE or source == EMBEDDED or hub_address.is_hub_address(source):
        return source
    first, *others = parts_of(source)
    path = os.path.abspath(own_path(first))
    if path == os.path.abspath(os.path.expanduser("~")):
        return "home"  # its last part is who they are
    name = spelled(os.path.basename(path)) or UNKNOWN
    name = f"{name} (own)" if name in CATALOGUE or name == EMBEDDED else name
    return f"{name} and {len(others)} more" if others else name


def parts_of(source: str) -> list[str]:
    """The files, folders and patterns that a source names: one, or several with commas between them."""
    if "," not in source or os.path.lexists(own_path(source)):
        return [source]
    return [part.strip() for part in source.split(",") if part.strip()] or [source]


def find_own(source: str) -> Found:
    """The texts of a source that is a person's own, without what this project or a tool wrote. Raises UserError."""
    search = Search()
    documents = [file.path for file in files_of(source, search)]
    return Found(documents, sorted(search.outputs), search.account)


def measure(source: str) -> tuple[int, int]:
    """(files, bytes) of a source that is a person's own, in little memory however many there are. Raises UserError."""
    count = size = 0
    for file in files_of(source, Search()):
        count, size = count + 1, size + file.size
    return count, size


def is_small(source: str) -> bool:
    """Whether a source that is a person's own goes through memory as one text, not in pieces. Raises UserError."""
    files, size = measure(source)
    return files <= FEW_FILES and size <= SMALL_TEXT


def files_of(source: str, search: Search) -> Iterator[File]:
    """The files of a source, in the order of its parts and of their paths, each once; little memory however many.

    What else is there is counted in `search`. Raises UserError when there is no text, or a part is none.
    """
    is_empty = True
    for root, path in _places(source):
        for file in _files_at(root, path, search):
            is_empty = False
            yield file
    if is_empty:
        raise UserError(_nothing_in(source, search))


def _places(source: str) -> Iterator[tuple[str, Path]]:
    """(the folder below which its files are named, the file or folder) of each part of a source. Raises UserError."""
    seen = set[str]()
    for part in parts_of(source):
        if part == STANDARD_INPUT:
            raise UserError("data.source: standard input is read once: nanogpt prepare - --out DIR keeps it")
        path = own_path(part)
        if _PATTERN & set(part) and not os.path.lexists(path):
            places = [Path(found) for found in sorted(_like(str(path)))]
            if not places:
                raise UserError(f"data.source: nothing is called like {spelled(part)}")
            root = _folder_of(part)
        else:
            places, root = [path], ""
        for place in places:
            if (whole := os.path.abspath(place)) not in seen:
                seen.add(whole)
                yield root or (whole if os.path.isdir(whole) else os.path.dirname(whole)), place


def _like(pattern: str) -> set[str]:
    """The paths that a pattern finds. ** enters no link to a folder, as glob does: two links to where they lie make as
    many paths as 2 to the 40th."""
    pattern = os.path.join(os.curdir, pattern) if pattern.startswith("**") else pattern
    before, recursive, after = pattern.partition(f"{os.sep}**")
    if not recursive or (after and not after.startswith(os.sep)):
        return set(glob.glob(pattern))
    found = set[str]()
    for folder in glob.glob(before or os.sep):
        for here, inner, _ in os.walk(folder):
            inner[:] = [name for name in inner if not name.startswith(".")]
            found |= _like(os.path.join(glob.escape(here), after.lstrip(os.sep) or "*"))
    return found


def _folder_of(pattern: str) -> str:
    """The folder below which a pattern finds what it finds."""
    before = os.path.abspath(own_path(pattern)).split(os.sep)
    return os.sep.join(before[: next(index for index, part in enumerate(before) if _PATTERN & set(part))]) or os.sep


def _files_at(root: str, path: Path, search: Search) -> Iterator[File]:
    """The texts in a file or folder. Raises UserError for what is neither, or output."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        _refuse_unknown(str(path))
    except (OSError, ValueError) as error:  # too long, a link to itself, not to be seen; a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"data.source: {spelled(path)[:100]} cannot be read ({reason})") from None
    if stat.S_ISREG(status.st_mode):
        _refuse_output(path, path.parent)
        yield File(root, os.path.relpath(os.path.abspath(path), root), status.st_size, status.st_mtime_ns)
    elif stat.S_ISDIR(status.st_mode):
        _refuse_output(path, path)
        yield from _walk(root, path, search)
    else:
        raise UserError(f"data.source: {spelled(path)} is neither a plain file nor a folder")


def _walk(root: str, folder: Path, search: Search) -> Iterator[File]:
    """Every file below `folder` in a format of texts, in the order of their paths. Folders are entered once: those that
    a link leads to are left out, so that no loop is run through."""
    for place in _entries(os.path.abspath(folder), search):
        name = os.path.relpath(place, root)
        kind = reading.format_of(os.path.basename(name))
        try:
            status = os.stat(place)
        except OSError as error:  # a link to nothing or to itself
            search.account.leave_out("unreadable", spelled(name), str(error.strerror))
            continue
        if stat.S_ISDIR(status.st_mode):
            search.account.leave_out("unreadable", spelled(name), "is a link to a folder; name that folder")
        elif not stat.S_ISREG(status.st_mode):
            search.account.leave_out("unreadable", spelled(name), "is no plain file")
        elif kind in NAMED_ONLY:
            search.account.leave_out("not_a_text_format", spelled(name), "is read where its own path is given")
        elif not kind:
            search.account.leave_out("not_a_text_format", spelled(name), "is in no format of texts that is known here")
        elif not status.st_size:
            search.account.leave_out("empty", spelled(name), "has no bytes")
        else:
            yield File(root, name, status.st_size, status.st_mtime_ns)


def _entries(folder: str, search: Search) -> Iterator[str]:
    """The paths of everything below `folder` that is no folder, hidden things and output left out."""
    waiting = [(folder, iter(_listed(folder, search)))]
    while waiting:
        here, names = waiting[-1]
        name, is_folder = next(names, ("", False))
        place = os.path.join(here, name)
        if not name:
            waiting.pop()
        elif name.startswith("."):
            continue
        elif not is_folder:
            yield place
        else:
            inner = _listed(place, search)
            if outputs.is_left_out(Path(place), [name for name, _ in inner]):
                search.outputs.append(Path(place))
            else:
                waiting.append((place, iter(inner)))


def _listed(folder: str, search: Search) -> list[tuple[str, bool]]:
    """(name, whether it is a folder and no link to one) of what is in a folder, in order."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except OSError as error:
        search.account.leave_out("unreadable", spelled(folder), f"is a folder that cannot be read ({error.strerror})")
        return []


def _nothing_in(source: str, search: Search) -> str:
    count = len(search.outputs)
    found = [example for examples in search.account.examples.values() for example in examples[:1]]
    output = [f"{count:,} folders with output of nanogpt or of tools are left out"] if count else []
    kind = "folder " if own_path(source).is_dir() else ""
    reasons = "; ".join([f"looked for {FORMATS}", *found[:2], *output])
    return f"data.source: the {kind}{spelled(source)} holds no text ({reasons})"


def _refuse_unknown(source: str) -> NoReturn:
    if Path(source).suffix or os.sep in source:
        raise UserError(f"data.source: there is no file or folder {spelled(source)}")
    known = [*CATALOGUE, EMBEDDED]
    raise UserError(
        f"data.source: {spelled(source)} is neither a file, a folder, nor one of {', '.join(known)}"
        f"{nearest(source, known)}"
    )


def _refuse_output(path: Path, folder: Path) -> None:
    """Raise UserError for a text or a folder that this project wrote: learned from, test text would be trained on."""
    written = outputs.marked_parent(folder / "anything")
    if written is None and outputs.is_written(_readable_names(folder)):
        written = folder
    if written is not None:
        raise UserError(
            f"data.source: {spelled(path)} is output ({spelled(written)} was written by nanogpt); name the text that "
            "it was made from"
        )


def _readable_names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise UserError(f"data.source: {spelled(folder)} cannot be read ({error.strerror})") from None


def check_documents(documents: Sequence[Path], wanted: Wanted) -> None:
    """Look for a file that can be read. Raises UserError, for the first, when there is none.

    Among several, what cannot be read is left out when it is read, and files of records, pages, books and archives are
    looked at no sooner.
    """
    problem: UserError | None = None
    for path in documents:
        try:
            if reading.is_plain(path):
                _check_plain(path, wanted.encoding)
            elif len(documents) == 1:
                _check_first(path, wanted)
            return
        except UserError as error:
            problem = problem or error
    if problem is not None:
        raise problem


def _check_first(path: Path, wanted: Wanted) -> None:
    account, name = Account(), spelled(path)
    if next(reading.read_file(path, name, "", wanted, account), None) is None:
        examples = [line.replace(": ", " ", 1) for lines in account.examples.values() for line in lines]
        raise UserError(f"data.source: {next(iter(examples), f'{name} is empty')}")


def _check_plain(path: Path, encoding: str) -> None:
    try:
        with durable.open_plain(path) as file:
            head = next((piece for piece in iter(lambda: file.read(decoding.HEAD), b"") if piece.strip()), b"")
    except OSError as error:
        raise UserError(f"data.source: {spelled(path)} cannot be read ({error.strerror})") from error
    if not head:
        raise UserError(f"data.source: {spelled(path)} is empty")
    decoding.decode(head, path, encoding)


def keep_standard_input(source: str, folder: Path) -> str:
    """`source` with standard input, where it names that, as the file in `folder` in which it is kept. Raises OSError,
    and UserError where nothing comes."""
    if STANDARD_INPUT not in parts_of(source):
        return source
    folder.mkdir(parents=True, exist_ok=True)
    coming = sys.stdin.buffer
    head = coming.read(decoding.HEAD)
    if not head.strip():
        raise UserError("data.source: standard input is empty")
    suffix = next((suffix for beginning, suffix in _BEGINNINGS.items() if head.startswith(beginning)), ".txt")
    path = folder / f"standard-input{suffix}"
    durable.write_pieces(path, itertools.chain([head], iter(lambda: coming.read(decoding.HEAD), b"")))
    return ",".join(str(path) if part == STANDARD_INPUT else part for part in parts_of(source))


def own_path(place: str) -> Path:
    """A path as a person or `spelled` wrote it; unlike Path.expanduser, a user that does not exist is no error yet."""
    path = Path(os.path.expanduser(place))
    return path if os.path.lexists(path) or "\\" not in place else path_of(str(path))
