"""Where text comes from: a named source of the catalogue, a person's own file or folder, or the embedded corpus.

A download is tried from the mirrors (folders or URLs), then from its public homes, and is only believed when its
sha256 is right. With none of them, the run takes the documentation that every CPython carries, and says so.
"""

import ast
import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from nanogpt import durable
from nanogpt.data.download import Notify, Part, Patience, Unobtainable, download, say_nothing
from nanogpt.data.preprocessing import is_binary
from nanogpt.faults import UserError, nearest

EMBEDDED = "embedded"
NAMED = 100  # documents
TEXT_SUFFIXES = (".txt", ".md")


@dataclass(frozen=True)
class Entry:
    """One file that can be downloaded, `bytes` long. `mirror_file` is its path below a mirror."""

    name: str
    file: str
    homes: tuple[str, ...]  # public addresses of the same bytes, the best first
    sha256: str
    bytes: int
    description: str
    licence: str
    citation: str
    mirror_file: str = ""

    def at(self, place: str) -> str:
        """Its address at a mirror or a home."""
        return place if place in self.homes else f"{place.rstrip('/')}/{self.mirror_file or self.file}"


CATALOGUE = {
    "tiny_shakespeare": Entry(
        name="tiny_shakespeare",
        file="tinyshakespeare.txt",
        homes=(
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            # The copy of TensorFlow's tutorials. It could not be reached where this was written: the sha256 decides.
            "https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt",
        ),
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        bytes=1_115_394,
        description="40,000 lines of Shakespeare's plays, 1.1 MB",
        licence="public domain",
        citation="Andrej Karpathy, char-rnn, 2015, https://github.com/karpathy/char-rnn",
    )
}


@dataclass(frozen=True)
class Fetched:
    """Text on this machine. `sha256` is over the documents' bytes in order; `bytes` is their sum."""

    documents: list[Path]
    origin: str
    sha256: str
    bytes: int
    fallback_reason: str | None = None


def check_source(source: str, mirrors: Sequence[str] = ()) -> None:
    """Refuse what cannot be learned from, before any work. Raises UserError; touches no network."""
    for mirror in mirrors:
        if not _is_url(mirror) and not _own(mirror).is_dir():
            raise UserError(
                f"data.mirror: {mirror} is neither a folder nor a http(s) URL (a name with a comma: in a list)"
            )
    if source not in CATALOGUE and source != EMBEDDED:
        for document in own_documents(source):
            _check_document(document)


def fingerprint(source: str) -> str | dict[str, str]:
    """What changes when a person's own file or folder does; the digest or name for named sources.

    Of each document by its name, so that it can be told which one changed; of very many as a whole.
    """
    if source in CATALOGUE:
        return CATALOGUE[source].sha256
    if source == EMBEDDED:
        return EMBEDDED
    documents, folder = own_documents(source), _own(source)
    named = {str(path.relative_to(folder)) if path != folder else path.name: digest_of([path]) for path in documents}
    return {name: digest[:12] for name, digest in named.items()} if len(named) <= NAMED else durable.digest(named)


def licence(source: str) -> str | None:
    """Under which a source may be used; None for a person's own text, of which only they can know."""
    if source == EMBEDDED:
        return "PSF-2.0 (Python's own documentation)"
    return CATALOGUE[source].licence if source in CATALOGUE else None


def fetch(source: str, folder: Path, mirrors: Sequence[str] = (), notify: Notify = say_nothing) -> Fetched:
    """The documents of `source`; downloads and the embedded corpus are kept in `folder`.

    A person's own documents stay where they are. `notify` is told each fault and its remedy.
    Raises UserError as check_source does, OSError when `folder` cannot be written.
    """
    check_source(source, mirrors)
    if source == EMBEDDED:
        return _fetched([write_embedded(folder)], EMBEDDED)
    if source not in CATALOGUE:
        return _fetched(own_documents(source), str(_own(source).resolve()))
    try:
        path, origin = obtain(CATALOGUE[source], folder, mirrors, notify)
    except Unobtainable as error:
        remedy = "learning from the embedded corpus instead"
        notify(str(error), remedy)
        return _fetched([write_embedded(folder)], EMBEDDED, f"{error}; {remedy}")
    return _fetched([path], origin)


def obtain(entry: Entry, folder: Path, mirrors: Sequence[str] = (), notify: Notify = say_nothing) -> tuple[Path, str]:
    """The verified file of `entry` in `folder`, and where its bytes came from (one that was there: its public home).

    Raises Unobtainable when all mirrors and homes fail, OSError when `folder` cannot be written. Where another process
    downloads it and gets nowhere, what needs no download is still tried.
    """
    part, patience, failures = Part(folder / entry.file, entry.sha256, entry.bytes), Patience(), []
    places = [*mirrors, *entry.homes]
    urls = [place for place in places if _is_url(place)]
    with ExitStack() as held:
        try:
            held.enter_context(part.alone(notify))
        except Unobtainable as error:
            failures.append(str(error))
            places = [place for place in places if not _is_url(place)]
        if _is_whole(part, notify):
            return part.whole, entry.homes[0]
        for place in places:
            address = entry.at(place)
            try:
                if _is_url(place):
                    download(address, part, patience, place == urls[-1], notify)
                else:
                    _copy(entry, _own(address), part.whole)
                return part.whole, address
            except Unobtainable as error:
                failures.append(str(error))
                if place is not places[-1]:
                    notify(str(error), "tried the next place")
    raise Unobtainable(f"{entry.name} could not be had ({'; '.join(failures)})")


def _is_whole(part: Part, notify: Notify) -> bool:
    """Whether the file is there already, and right."""
    if not os.path.lexists(part.whole):
        return False
    try:
        if durable.sha256_file(part.whole) == part.sha256:
            return True
        problem = "sha256 differs"
    except OSError as error:
        problem = error.strerror
    notify(f"{part.whole} is not what it should be ({problem})", "fetched again")
    return False


def write_embedded(folder: Path) -> Path:
    """Write the embedded corpus (about 1.3 MB of English, the same for one Python version) and return its path."""
    path = folder / "embedded.txt"
    durable.write_text(path, "\n\n".join(_embedded_pieces()) + "\n")
    return path


def _embedded_pieces() -> Iterator[str]:
    """Python's language reference as `help()` carries it, then each distinct docstring of the top-level library."""
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        topics = {}
    for name in sorted(topics):
        yield topics[name].strip()
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


def own_documents(source: str) -> list[Path]:
    """The files of a source that is a person's own. Raises UserError when there are none."""
    path = _own(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        return _documents_in(path)
    if path.suffix or os.sep in source:
        raise UserError(f"data.source: there is no file or folder {source}")
    known = [*CATALOGUE, EMBEDDED]
    raise UserError(
        f"data.source: {source} is neither a file, a folder, nor one of {', '.join(known)}{nearest(source, known)}"
    )


def _documents_in(folder: Path) -> list[Path]:
    """Every non-empty *.txt and *.md below `folder`, hidden ones left out, in the order of their paths."""
    documents = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in TEXT_SUFFIXES
        and path.is_file()
        and path.stat().st_size
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not documents:
        raise UserError(f"data.source: the folder {folder} holds no text (looked for non-empty *.txt and *.md)")
    return documents


def _check_document(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            head = file.read(1 << 16)
    except OSError as error:
        raise UserError(f"data.source: {path} cannot be read ({error.strerror})") from error
    if not head.strip():
        raise UserError(f"data.source: {path} is empty")
    if is_binary(head):
        raise UserError(f"data.source: {path} is not text (binary bytes in its first {len(head):,})")


def digest_of(documents: list[Path]) -> str:
    """sha256 over the documents' bytes in order. Raises UserError when one cannot be read."""
    try:
        digests = [durable.sha256_file(path) for path in documents]
    except OSError as error:
        raise UserError(f"data.source: {error.filename} cannot be read ({error.strerror})") from error
    return digests[0] if len(digests) == 1 else durable.digest(digests)


def _fetched(documents: list[Path], origin: str, fallback_reason: str | None = None) -> Fetched:
    size = sum(path.stat().st_size for path in documents)
    return Fetched(documents, origin, digest_of(documents), size, fallback_reason)


def _own(place: str) -> Path:
    """A path that a person wrote; unlike Path.expanduser, a user that does not exist is no error yet."""
    return Path(os.path.expanduser(place))


def _is_url(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _copy(entry: Entry, source: Path, path: Path) -> None:
    if not source.is_file():
        raise Unobtainable(f"the mirror has no {source}")
    try:
        content = source.read_bytes()
    except OSError as error:
        raise Unobtainable(f"the mirror's {source} cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise Unobtainable(f"the mirror's {source} is not {entry.name} (sha256 differs)")
    durable.unblock(path)
    durable.write_bytes(path, content)
