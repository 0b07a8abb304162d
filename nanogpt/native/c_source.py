"""A file of C, built by this machine's compiler and kept for the next process.

A built library is named for what it depends on (source, compiler, flags, processor) and for its own sha256, so that
two processes that build at once do not disturb each other and a damaged file is built anew. Where it cannot be built,
that is kept for a while, so that not every process tries for seconds.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nanogpt import durable
from nanogpt.machine import processor_features, processor_name
from nanogpt.native.cache_folder import cache_folder
from nanogpt.native.unavailable import Unavailable

COMPILERS = ("cc", "gcc", "clang")
# For this very processor where the compiler knows how to say so. OpenMP is not asked for: macOS's clang lacks it, and
# its threads spin at every barrier while another process waits for the core.
FLAGS = (("-O3", "-march=native"), ("-O3", "-mcpu=native"), ("-O3",))
COMMON_FLAGS = ("-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread")
SECONDS = 120  # for a compiler: it takes 1 to 8 on an idle machine
SECONDS_TO_TRY_AGAIN = 3600  # after a failure: headers may have been installed since, or the machine was busy
SECONDS_TO_ANSWER = 20  # for a question, such as its version: 0.1 on an idle machine
Notify = Callable[[str], None]


@dataclass(frozen=True)
class CSource:
    """A file of C without dependencies. `name` stands in messages and in the names of what is built, `seconds` is what
    building takes on an idle machine."""

    path: Path
    name: str
    seconds: int

    @property
    def building(self) -> str:
        """The message while it is built."""
        return f"Building the {self.name} for this processor (once, about {self.seconds} s)…"

    def load(self, notify: Notify = lambda message: None) -> ctypes.CDLL:
        """The library, built if it is not there yet: `notify` gets a line before. Raises Unavailable."""
        compiler = find_compiler()
        note = cache_folder() / f"{self.name}-{self.key(compiler)}.json"
        kept = _kept(note, compiler)
        if kept is not None:
            return kept
        notify(self.building)
        try:
            with _one_builder(note):
                kept = _kept(note, compiler)  # another process may have built it meanwhile
                return kept if kept is not None else _build(self.path, compiler, note)
        except OSError as error:  # the folder's disk is full, or may only be read
            raise Unavailable(f"the cache folder {note.parent} cannot be used ({error.strerror or error})") from error

    def key(self, compiler: Sequence[str]) -> str:
        """A digest of all that decides what is built. Raises Unavailable."""
        version = _run([*compiler, "--version"], SECONDS_TO_ANSWER)
        machine = [platform.machine(), processor_name(), processor_features(), *platform.libc_ver()]
        text = self.path.read_text(encoding="utf-8")
        return durable.digest([text, list(compiler), version, FLAGS, COMMON_FLAGS, machine])


def find_compiler() -> list[str]:
    """The command of the compiler: CC, else the first that is there. Raises Unavailable."""
    if sys.platform == "darwin" and "CC" not in os.environ:
        try:  # without them, Apple's cc is a program that opens a window
            _run(["xcode-select", "-p"], SECONDS_TO_ANSWER)
        except Unavailable as error:
            raise Unavailable("Apple's command line tools are not installed (xcode-select --install)") from error
    try:
        asked = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise Unavailable(f"CC={os.environ['CC']} is no command ({error})") from error
    for command in [asked] if asked else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    raise Unavailable(f"no C compiler ({' '.join(asked) or ', '.join(COMPILERS)}) is installed")


def _kept(note: Path, compiler: Sequence[str]) -> ctypes.CDLL | None:
    """The library that `note` names; None without one, or where it is not what was built. Raises Unavailable where it
    says that `compiler` could not build it, and was tried lately."""
    found, _ = durable.read_note(note)
    if found is None:
        return None
    if found.get("by") == _installed(compiler) and abs(time.time() - found["at"]) < SECONDS_TO_TRY_AGAIN:
        raise Unavailable(found["failed"])
    if not isinstance(found.get("library"), str):
        return None
    path = note.parent / Path(found["library"]).name
    try:
        if durable.sha256_file(path) != found.get("content"):
            return None
        return ctypes.CDLL(str(path))
    except OSError:
        return None


@contextmanager
def _one_builder(note: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout  # 0.03 s that only this needs

    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError, Timeout):  # without locks several build at once, which does no harm
            stack.enter_context(FileLock(note.with_name("building.lock"), timeout=SECONDS))
        yield


def _installed(compiler: Sequence[str]) -> list[object]:
    """Which file the compiler is, and since when: one that is installed anew may say the same version."""
    path = Path(shutil.which(compiler[0]) or compiler[0]).resolve()
    return [str(path), path.stat().st_mtime_ns]


def _build(source: Path, compiler: Sequence[str], note: Path) -> ctypes.CDLL:
    try:
        return _built(source, compiler, note)
    except Unavailable as error:
        with suppress(OSError):
            durable.write_note(note, {"failed": str(error), "by": _installed(compiler), "at": time.time()})
        raise


def _built(source: Path, compiler: Sequence[str], note: Path) -> ctypes.CDLL:
    mistake = ""
    durable.remove_abandoned(note.parent)  # of a process that was killed while it built
    with tempfile.TemporaryDirectory(prefix=".", suffix=f".{os.getpid()}.tmp", dir=note.parent) as folder:
        built = Path(folder) / "built.so"
        for flags in FLAGS:
            try:
                _run([*compiler, *flags, *COMMON_FLAGS, "-o", str(built), str(source), "-lm"], SECONDS)
                content = durable.sha256_file(built)
                path = note.with_name(f"{note.stem}-{content[:16]}.so")
                os.replace(built, path)
                library = ctypes.CDLL(str(path))
            except TooSlow:  # with the next flags it would be as slow
                raise
            except (Unavailable, OSError) as error:
                mistake = mistake or str(error)
                continue
            durable.write_note(note, {"library": path.name, "content": content, "flags": list(flags)})
            return library
    raise Unavailable(f"{compiler[0]} could not build it ({mistake})")


class TooSlow(Unavailable):
    """A command did not end in its time."""


def _run(command: Sequence[str], seconds: float) -> str:
    """What a command prints, in English. Raises Unavailable with the first line of what it complains of."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace",
            timeout=seconds, check=False, env=os.environ | {"LC_ALL": "C"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TooSlow(f"{command[0]} takes longer than {seconds:g} s") from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"{command[0]} does not run: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        line = next((line for line in lines if "error" in line), lines[0])
        raise Unavailable("".join(filter(str.isprintable, line))[:200])
    return done.stdout
