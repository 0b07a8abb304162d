"""Files that are whole or absent: written next to their place, flushed to the disk, then renamed into it.

A reader never meets half a file, whatever moment the machine stopped at.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import threading
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from nanogpt.faults import FolderLostError

_kept_to: dict[Path, tuple[int, int] | None] = {}


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, durably. Raises OSError (no space, read-only) with `path` as it was before."""
    write_pieces(path, [data])


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Replace `path` by `pieces` one behind the other, durably; what does not fit into memory comes piece by piece.

    A folder that stands there is set aside.
    """
    with replacing(path) as file:
        file.writelines(pieces)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path`, durably, when the block ends well. A folder that stands there is set
    aside."""
    make_parents(path)
    temporary = path.with_name(f".{path.name}.{threading.get_native_id()}.{os.getpid()}.tmp")  # threads share files too
    try:
        with open(temporary, "wb") as file:
            yield file
            fsync_file(file)
        if path.is_dir() and not path.is_symlink():  # a rename does not take its place
            set_aside(path)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk, say: which one?
            error.filename = str(path)
        raise
    fsync_folder(path.parent)


UNFINISHED = re.compile(r"^\..*\.(\d+)\.tmp$")  # what write_pieces() calls what it writes, with its process


def is_abandoned(path: Path) -> bool:
    """Whether `path` is what a process had begun to write that has ended."""
    found = UNFINISHED.match(path.name)
    if found is None:
        return False
    try:
        os.kill(int(found[1]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it lives, and is somebody else's
        return False
    return False


def remove_abandoned(folder: Path) -> None:
    """Remove from `folder` what is_abandoned(): nobody else would, and weights are large. Raises OSError."""
    for path in folder.glob(".*.tmp"):
        if is_abandoned(path):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def make_parents(path: Path) -> None:
    """The folders above `path`. Raises FolderLostError rather than make one anew that is kept to and is gone."""
    require_kept(path)
    path.parent.mkdir(parents=True, exist_ok=True)


def require_kept(path: Path) -> None:
    """Raise FolderLostError where `path` is in a folder that is kept to and is gone."""
    for folder, found in _kept_to.items():
        if folder in path.parents and identity(folder) != found:
            raise FolderLostError(folder)


@contextlib.contextmanager
def keep_to(folder: Path) -> Iterator[None]:
    """Meanwhile, nothing is written below `folder` once it is gone or another one stands there: on a disk that was
    unmounted, the path would be made anew next to it."""
    _kept_to[folder] = identity(folder)
    try:
        yield
    finally:
        del _kept_to[folder]


def identity(folder: Path) -> tuple[int, int] | None:
    """What no other folder has while this one is there; None without a folder."""
    try:
        found = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def open_to_append(path: Path) -> int:
    """A descriptor that adds to the end of the plain file `path`, and reads. What else stands there, a link to a file
    included, is set aside: whoever may place a link would choose the file that is written. Raises OSError."""
    unblock(path, links=True)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag
    return os.open(path, flags, 0o644)  # others may read a log, whatever the umask, and nobody executes it


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8, durably."""
    write_bytes(path, text.encode("utf-8"))


def write_page(path: Path, text: str) -> None:
    """write_text() for people: a lone surrogate, of a file name that is not UTF-8, is shown as an escape."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as readable JSON, durably. NaN and infinity are refused (ValueError).

    A lone surrogate, of a file name that is not UTF-8, is written as JSON's own escape and read back as it was.
    """
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """What write_json() writes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def open_plain(path: Path) -> BufferedReader:
    """`path` open for reading. Raises OSError, also where it is no plain file: a FIFO would wait for its writer."""
    return open(path, "rb", opener=_descriptor_of_plain)


def _descriptor_of_plain(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # Windows has neither the flag nor FIFOs
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a plain file", path)


def read_bytes(path: Path) -> bytes:
    """The content of a plain file. Raises OSError."""
    with open_plain(path) as file:
        return file.read()


def read_text(path: Path) -> str:
    """The UTF-8 text of a plain file. Raises OSError or ValueError."""
    return read_bytes(path).decode("utf-8")


def read_json(path: Path) -> Any:
    """The JSON value in a plain file. Raises OSError or ValueError."""
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise ValueError("nested too deeply") from None


DAMAGED = ".bad"  # what is called so is not what was written, or not what belongs there


def set_aside(path: Path, suffix: str = DAMAGED) -> Path:
    """Rename `path` to its name and `suffix`, in place of what was set aside before, durably; the new path. Raises
    OSError."""
    aside = path.with_name(f"{path.name}{suffix}")
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)
    path.rename(aside)
    fsync_folder(path.parent)
    return aside


def unblock(path: Path, *, links: bool = False) -> None:
    """Set aside what stands in the place of a file and is not one: a folder or device, say; with `links`, also a link
    to a file."""
    if os.path.lexists(path) and (not path.is_file() or (links and path.is_symlink())):
        set_aside(path)


def unblock_folder(path: Path) -> bool:
    """Set aside what stands where a folder belongs and is none; whether something did. A link to nothing stays: what it
    leads to may be on a disk that is not mounted."""
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # a link to itself
        is_folder = False
    if not is_folder:
        set_aside(path)
    return not is_folder


def remove(path: Path) -> None:
    """Remove the file at `path`, if it is there. What else stands in its place is set aside. Raises OSError."""
    unblock(path)
    path.unlink(missing_ok=True)


DIGEST = "sha256"  # the key under which a note has its own


def write_note(path: Path, note: dict[str, Any]) -> None:
    """Replace `path` by `note` as JSON with its digest, durably; a folder that stands there is set aside.

    Raises OSError.
    """
    unblock(path)
    write_json(path, {**note, DIGEST: digest(note)})


def read_note(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The note at `path`, and what is wrong with it: (None, "") if there is none.

    One bit that flipped is noticed. A note without a digest is believed: the first versions wrote none.
    """
    try:
        note = read_json(path)
    except FileNotFoundError:
        return (None, "it is a link to nothing") if path.is_symlink() else (None, "")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        return None, f"it cannot be read: {reason}"
    if not isinstance(note, dict):
        return None, "it is not a JSON object"
    written = note.pop(DIGEST, None)
    if written is not None and written != digest(note):
        return None, "it changed after it was written (sha256 differs)"
    return note, ""


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hexadecimal sha256 of a JSON value, independent of key order."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "backslashreplace")).hexdigest()


def fsync_file(file: BinaryIO) -> None:
    """Flush `file` to the medium. On macOS fsync stops at the drive's cache; F_FULLFSYNC does not."""
    file.flush()
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # network and FAT volumes do not know it
            fcntl.fcntl(file.fileno(), fcntl.F_FULLFSYNC)
            return
    os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
