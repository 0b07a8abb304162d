"""A file of C, built by this machine's compiler and kept for the next process.

A built library is named for what it depends on (source, compiler, flags, processor) and for its own sha256, so that
two processes that build at once do not disturb each other and a damaged file is built anew. Where the compiler cannot
build it, that is kept for a while, so that not every process tries for seconds.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shlex
import shutil
import signal
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
SECONDS_TO_TRY_AGAIN = 3600  # after an error of the compiler's: headers may have been installed since
EXIT_OF_A_SIGNAL = 128  # and more, of a shell whose command was killed
SECONDS_TO_ANSWER = 20  # for a question, such as its version: 0.1 on an idle machine
# What gcc and clang say when a part of them was killed or could not be started, or the disk or the memory was full.
OF_THE_MOMENT = re.compile(
    r"terminated program|unable to execute command|due to signal|\bKilled\b|No space left|out of memory|"
    r"memory exhausted|Cannot allocate memory|Resource temporarily unavailable"
)
LOADING = """import ctypes, sys
try: ctypes.CDLL(sys.argv[1])
except OSError as error: sys.exit(str(error))"""
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """A library, and a digest of all that decides its bits: CSource.key() where it was built with the first FLAGS."""

    library: ctypes.CDLL
    identity: str

    @classmethod
    def of(cls, library: ctypes.CDLL, key: str, flags: Sequence[str]) -> Built:
        return cls(library, key if tuple(flags) == FLAGS[0] else durable.digest([key, list(flags)]))


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
        """The library of build()."""
        return self.build(notify).library

    def build(self, notify: Notify = lambda message: None) -> Built:
        """The library, built if it is not there yet: `notify` gets a line before. Raises Unavailable."""
        compiler = find_compiler()
        key = self.key(compiler)
        note = cache_folder() / f"{self.name}-{key}.json"
        if kept := _kept(note, key, compiler):
            return kept
        notify(self.building)
        try:
            with _one_builder(note):  # another process may have built it meanwhile
                return _kept(note, key, compiler) or _build(self.path, compiler, note, key)
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


def _kept(note: Path, key: str, compiler: Sequence[str]) -> Built | None:
    """The library that `note` names; None without one, or where it is not what was built. Raises Unavailable where it
    says that `compiler` could not build it, and was tried lately."""
    found, _ = durable.read_note(note)
    if found is None:
        return None
    if found.get("by") == _installed(compiler) and abs(time.time() - found["at"]) < SECONDS_TO_TRY_AGAIN:
        tried, again = _clock(found["at"]), _clock(found["at"] + SECONDS_TO_TRY_AGAIN)
        raise Unavailable(f"{found['failed']}; tried at {tried}, to be tried again from {again} on")
    if not isinstance(found.get("library"), str):
        return None
    path = note.parent / Path(found["library"]).name
    try:
        if durable.sha256_file(path) != found.get("content"):
            return None
        return Built.of(ctypes.CDLL(str(path)), key, found["flags"])
    except OSError:
        return None


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M", time.localtime(seconds))


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


def _build(source: Path, compiler: Sequence[str], note: Path, key: str) -> Built:
    durable.remove_abandoned(note.parent)  # of a process that was killed while it built
    mistake = ""
    for flags in FLAGS:
        try:
            return Built.of(_built_with(flags, source, compiler, note), key, flags)
        except OfTheMoment:  # these flags may work the next time, and others would give other bits
            raise
        except Unavailable as error:
            mistake = mistake or str(error)
    failed = f"{compiler[0]} could not build it ({mistake})"
    with suppress(OSError):
        durable.write_note(note, {"failed": failed, "by": _installed(compiler), "at": time.time()})
    raise Unavailable(failed)


def _built_with(flags: Sequence[str], source: Path, compiler: Sequence[str], note: Path) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix=".", suffix=f".{os.getpid()}.tmp", dir=note.parent) as folder:
        built = Path(folder) / "built.so"
        _run([*compiler, *flags, *COMMON_FLAGS, "-o", str(built), str(source), "-lm"], SECONDS)
        if not built.exists():
            raise Unavailable("it has written nothing")
        _try_to_load(built)
        content = durable.sha256_file(built)
        path = note.with_name(f"{note.stem}-{content[:16]}.so")
        os.replace(built, path)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(str(error)) from error
    durable.write_note(note, {"library": path.name, "content": content, "flags": list(flags)})
    return library


def _try_to_load(library: Path) -> None:
    """In a process of its own: half of a library, as of a disk that is full, ends whoever loads it by a signal."""
    try:
        _run([sys.executable, "-I", "-S", "-c", LOADING, str(library)], SECONDS_TO_ANSWER)
    except OfTheMoment as error:
        raise OfTheMoment("what it has written cannot be loaded; perhaps it is not whole") from error


class OfTheMoment(Unavailable):
    """A command was too slow, was killed, or had no room: it may work the next time."""


def _run(command: Sequence[str], seconds: float) -> str:
    """What a command prints, in English. Raises Unavailable with the first line of what it complains of.

    Ctrl-C of a terminal does not reach it: a training that was asked to stop would take a compiler that was killed for
    one that cannot build.
    """
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
            errors="replace", env=os.environ | {"LC_ALL": "C"}, start_new_session=True,
        )  # fmt: skip
        with process, _ended_whole(process):
            output, complaints = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise OfTheMoment(f"{command[0]} takes longer than {seconds:g} s") from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"{command[0]} does not run: {error}") from error
    if code := process.returncode:
        lines = (complaints or output).strip().splitlines() or [_ending(command[0], code)]
        line = next((line for line in lines if "error" in line), lines[0])
        is_killed = code < 0 or code > EXIT_OF_A_SIGNAL
        kind = OfTheMoment if is_killed or OF_THE_MOMENT.search("\n".join(lines)) else Unavailable
        raise kind("".join(filter(str.isprintable, line))[:200])
    return output


@contextmanager
def _ended_whole(process: subprocess.Popen[str]) -> Iterator[None]:
    """Who waits no longer ends the parts of a compiler too, which are processes of their own."""
    try:
        yield
    except BaseException:
        with suppress(OSError, AttributeError):  # AttributeError: on Windows
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        raise


def _ending(name: str, returncode: int) -> str:
    return f"exit code {returncode}" if returncode > 0 else f"{name} was killed by signal {-returncode}"
