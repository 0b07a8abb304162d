"""The embedded corpus: the documentation that every CPython carries, for a machine without a network."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from nanogpt import durable


def write_embedded(folder: Path) -> Path:
    """Write the embedded corpus (about 1.3 MB of English, the same for one Python version) and return its path."""
    path = folder / "embedded.txt"
    durable.write_text(path, "\n\n".join(_embedded_pieces()) + "\n")
    return path


def _embedded_pieces() -> Iterator[str]:
    """Python's language reference as `help()` carries it, then each distinct docstring of the top-level library."""
    try:
        from pydoc_data import topics
    except ImportError:  # some distributions leave it out
        pass
    else:
        for name in sorted(topics.topics):
            yield topics.topics[name].strip()
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
