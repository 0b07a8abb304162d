"""The embedded corpus: the documentation that a machine carries, for one without a network.

Up to FIRST_BYTES it is what every CPython has, one text, the same for one version. More is drawn from all documentation
here (documentation.py), a document a module, page or file, each once, in the order of their digests: whatever is read
of it is mixed, and more bytes give the same documents and then others.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanogpt import durable
from nanogpt.records import to_json
from nanogpt.sources import documentation
from nanogpt.sources.documentation import Origin, Written

FIRST_BYTES = 1_300_000  # about what CPython 3.11 to 3.14 have
EVERYTHING = sys.maxsize
TEXTS, LICENCES = "embedded.jsonl", "embedded-licences.json"
VERSION = 1  # of what is gathered, and how


@dataclass(frozen=True)
class Share:
    """What the texts hold of one package, or of the manual pages."""

    name: str
    licence: str
    documents: int
    bytes: int


def write_embedded(folder: Path, wanted_bytes: int = FIRST_BYTES) -> Path:
    """Write the embedded corpus and return its path: embedded.txt, or, for more than FIRST_BYTES, embedded.jsonl with
    a document a line and, next to it, embedded-licences.json with the licence of each package.

    EVERYTHING is 11 MB with this project's own packages and no manual, 30 MB with 275 packages and a manual, in 4 s;
    it is written once for one environment. Raises OSError.
    """
    if wanted_bytes > FIRST_BYTES:
        return _write_texts(folder, wanted_bytes)
    path = folder / "embedded.txt"
    durable.write_text(path, "\n\n".join(_embedded_pieces()) + "\n")
    return path


def _embedded_pieces() -> Iterator[str]:
    """Python's language reference as `help()` carries it, then each distinct docstring of the top-level library."""
    yield from documentation.language_reference()
    seen = set()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if path.name.startswith("_sysconfigdata"):  # differs from build to build
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node) or ""
                if len(docstring) >= 80 and docstring not in seen:
                    seen.add(docstring)
                    yield docstring


def _write_texts(folder: Path, wanted_bytes: int) -> Path:
    path, licences = folder / TEXTS, folder / LICENCES
    made_of = {"environment": environment(), "wanted_bytes": wanted_bytes}
    note, _ = durable.read_note(licences)
    if note and path.is_file() and note.get("made_of") == made_of and note.get("text") == durable.sha256_file(path):
        return path
    texts = drawn(documentation.all_texts(), wanted_bytes)
    durable.remove(licences)
    durable.write_pieces(path, map(_line_of, texts))
    shares = to_json(shares_of(texts))
    durable.write_note(licences, {"made_of": made_of, "text": durable.sha256_file(path), "sources": shares})
    return path


def drawn(texts: Iterator[Written], wanted_bytes: int) -> list[Written]:
    """Each text once, in the order of their digests, until there are `wanted_bytes`."""
    by_digest = {hashlib.sha256(written.text.encode()).digest(): written for written in texts}
    taken, size = list[Written](), 0
    for digest in sorted(by_digest):
        if size >= wanted_bytes:
            break
        taken.append(by_digest[digest])
        size += len(by_digest[digest].text.encode())
    return taken


def shares_of(texts: list[Written]) -> list[Share]:
    """What `texts` are from, by name."""
    of: dict[Origin, list[int]] = {}
    for written in texts:
        of.setdefault(written.origin, []).append(len(written.text.encode()))
    rows = [Share(origin.name, origin.licence, len(sizes), sum(sizes)) for origin, sizes in of.items()]
    return sorted(rows, key=lambda row: row.name)


def environment() -> str:
    """What changes when the documentation here does: Python, its packages, the manual."""
    packages = sorted({path.name for place in sys.path for path in Path(place).glob("*-info")})  # with their versions
    sections = [
        folder / f"man{section}" for folder in documentation.manual_folders() for section in documentation.SECTIONS
    ]
    manual = [[str(place), place.stat().st_mtime_ns] for place in sections if place.is_dir()]
    return durable.digest([VERSION, sys.version, packages, manual])


def _line_of(written: Written) -> bytes:
    record = {"text": written.text, "name": written.name, "source": written.origin.name}
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
