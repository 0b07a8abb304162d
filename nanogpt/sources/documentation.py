"""The documentation that a machine carries: Python's, its installed packages', and its manual pages."""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import os
import re
import sys
import sysconfig
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path

from nanogpt.sources import manual_pages

SHORTEST = 200  # characters of a text; of a docstring 80
MOST_OF_PACKAGE = 200_000  # characters: the largest would be a half of all else
MOST_OF_FAMILY = 15_000  # characters of manual pages that begin with one word: else gcloud's would be a third
MOST_SOURCE = 4_000_000  # bytes of one package's code that are searched for docstrings
MOST_OF_FILE = 1_000_000  # bytes of one text
LEAST_LETTERS = 0.7  # of a text's characters, blanks counted: less is a table or data
MOST_OF_MANUAL = 12_000_000  # characters: a system with many programs would have no more than manual pages
SECTIONS = "75812463"  # of the manual, that with the most prose first: overviews, file formats, administration
PYTHON_LICENCE = "PSF-2.0"
MANUAL_LICENCE = "that of its program, such as GPL, MIT or BSD (the page or /usr/share/doc says which)"
_DOCSTRING = re.compile(r""":\s*([rRuU]?)(\"\"\"|''')(.*?)\2""", re.S)
_OF_MODULE = re.compile(r"""(?:[ \t]*(?:#[^\n]*)?\n)*([rRuU]?)(\"\"\"|''')(.*?)\2""", re.S)
_NO_PROSE = re.compile("licen[cs]e|copying|notice|authors|requirements|constraints|vocab|CMakeLists", re.IGNORECASE)
_TESTS = re.compile(r"(^|/)(tests?|testing|_?vendor(ed)?|site-packages|lib2to3|idlelib)(/|$)|(^|/)(test_|conftest)")
_CLASSIFIER = "License :: OSI Approved :: "


@dataclass(frozen=True)
class Origin:
    """What a text is from: a package with its version, or the system's manual."""

    name: str
    licence: str


@dataclass(frozen=True)
class Written:
    """One text of documentation."""

    text: str
    name: str
    origin: Origin


def all_texts() -> Iterator[Written]:
    """Every text, in an order that is the same for one environment; the same text may come twice."""
    yield from of_python()
    yield from of_packages()
    yield from of_manual()


def language_reference() -> Iterator[str]:
    """Python's language reference, as `help()` carries it."""
    try:
        from pydoc_data import topics
    except ImportError:  # some distributions leave it out
        return
    for name in sorted(topics.topics):
        yield topics.topics[name].strip()


def of_python() -> Iterator[Written]:
    """Python's reference, and the docstrings of each module of its library."""
    origin = Origin(f"Python {'.'.join(map(str, sys.version_info[:3]))}", PYTHON_LICENCE)
    for number, text in enumerate(language_reference()):
        yield Written(text, f"python/reference/{number}", origin)
    library = Path(sysconfig.get_path("stdlib"))
    for place in _modules_below(library):
        if text := docstrings(_text_in(library / place)):
            yield Written(text, f"python/{place}", origin)


def of_packages() -> Iterator[Written]:
    """What each installed package says of itself: its description, its documents, the docstrings of its modules."""
    packages = {_name_of(package): package for package in reversed(list(importlib.metadata.distributions()))}
    for name in sorted(packages):
        if name and name != "nanogpt-autopilot":
            yield from _of_package(name, packages[name])


def of_manual() -> Iterator[Written]:
    """The manual pages of the system, in English."""
    taken, left = Counter[str](), MOST_OF_MANUAL
    for folder, section in itertools.product(manual_folders(), SECTIONS):
        for path in _listed(folder / f"man{section}"):
            family = re.split("[-_.]", path.name)[0]
            if taken[family] < MOST_OF_FAMILY and len(text := manual_pages.text_of(_text_in(path))) >= SHORTEST:
                taken[family] += len(text)
                left -= len(text)
                yield Written(text, f"man/{path.name.removesuffix('.gz')}", Origin("manual pages", MANUAL_LICENCE))
            if left <= 0:
                return


def manual_folders() -> list[Path]:
    places = ("/usr/share/man", "/usr/local/share/man", "/opt/homebrew/share/man")
    return [Path(place) for place in places if os.path.isdir(place)]


def docstrings(source: str) -> str:
    """The docstrings of a module of 80 characters and more, each once: triple-quoted texts behind a colon, or first.

    Found by a pattern, in a thirtieth of the time that parsing takes; of those of Python it finds 99 %.
    """
    first = _OF_MODULE.match(source)
    found = dict[str, None]()
    for match in [*([first] if first else []), *_DOCSTRING.finditer(source)]:
        raw, quotes, text = match.groups()
        if len(text) >= 80:
            found[cleandoc(_evaluated(text, quotes) if "\\" in text and raw.lower() != "r" else text)] = None
    text = "\n\n".join(found)
    return text if len(text) >= SHORTEST else ""


def is_prose(text: str) -> bool:
    """Whether a text is more than data: nearly all of it letters and blanks."""
    sample = text[:20_000]
    return len(text) >= SHORTEST and sum(map(str.isalpha, sample)) + sample.count(" ") >= LEAST_LETTERS * len(sample)


def _of_package(name: str, package: importlib.metadata.Distribution) -> Iterator[Written]:
    origin = Origin(f"{name} {package.version}", _licence_of(package))
    left = MOST_OF_PACKAGE
    description = package.metadata.json.get("description", "")
    assert isinstance(description, str)
    found = [(description, f"{name}/description")] if is_prose(description) else []
    for text, place in itertools.chain(found, _texts_of(name, package)):
        if left <= 0:
            return
        left -= len(text)
        yield Written(text, place, origin)


def _texts_of(name: str, package: importlib.metadata.Distribution) -> Iterator[tuple[str, str]]:
    """(text, name) of a package's documents, and of its modules' docstrings."""
    files = sorted({line.split(",")[0] for line in (package.read_text("RECORD") or "").splitlines()})
    root, left = Path(str(package.locate_file(""))), MOST_SOURCE
    for place in files:
        is_document = place.endswith((".rst", ".md", ".txt")) and ".dist-info/" not in place
        if is_document and not _NO_PROSE.search(place) and is_prose(text := _text_in(root / place)):
            yield text, f"{name}/{place}"
    for place in files:
        if place.endswith(".py") and not _TESTS.search(place) and left > 0:
            source = _text_in(root / place)
            left -= len(source)
            if text := docstrings(source):
                yield text, f"{name}/{place}"


def _name_of(package: importlib.metadata.Distribution) -> str:
    return re.sub("[-_.]+", "-", str(package.metadata["Name"] or "")).lower()


def _licence_of(package: importlib.metadata.Distribution) -> str:
    """What a package's metadata say, in a few words."""
    stated = package.metadata.json
    classes = [line.removeprefix(_CLASSIFIER) for line in stated.get("classifier", []) if _CLASSIFIER in line]
    said = str(stated.get("license_expression") or ", ".join(classes) or stated.get("license") or "").strip()
    return said.splitlines()[0][:80] if said else "not stated"


def _modules_below(library: Path) -> Iterator[str]:
    """The modules of Python's library, in the order of their paths."""
    for folder, folders, files in os.walk(library):
        here = os.path.relpath(folder, library)
        folders[:] = sorted(name for name in folders if not _TESTS.search(name) and name != "__pycache__")
        for name in sorted(files):
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):  # differs from build to build
                yield os.path.normpath(os.path.join(here, name))


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _text_in(path: Path) -> str:
    """The text of a file, unpacked; "" for one that is too large, or cannot be read, or is none."""
    try:
        if path.stat().st_size > MOST_OF_FILE:
            return ""
        data = path.read_bytes()
        return (zlib.decompress(data, wbits=31) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, UnicodeDecodeError, zlib.error):
        return ""


def _evaluated(text: str, quotes: str) -> str:
    """What Python makes of the escapes in a literal; as it stands where it is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return str(ast.literal_eval(f"{quotes}{text}{quotes}"))
        except (SyntaxError, ValueError):
            return text
