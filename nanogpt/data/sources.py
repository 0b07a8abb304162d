"""Where text comes from: a named source of the catalogue, a person's own file or folder, or the embedded corpus.

A download is tried from the mirrors (folders or URLs), then from its public homes, and is used only when its sha256 is
right. If all of them fail, the run takes the documentation that every CPython carries, and says so.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from nanogpt import durable
from nanogpt.data import decoding, outputs
from nanogpt.data.part import Notify, Part, Unobtainable, say_nothing
from nanogpt.faults import UserError, nearest
from nanogpt.spelling import is_redacted, path_of, redacted, spelled

EMBEDDED = "embedded"
UNKNOWN = "unknown"  # the name of a text that nobody recorded
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
    language: str | None = None  # ISO 639-1, of a text

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
        language="en",
    )
}


@dataclass(frozen=True)
class Found:
    """A person's own texts, and the folders among them that hold output instead of text."""

    documents: list[Path]
    left_out: list[Path]


@dataclass(frozen=True)
class Fetched:
    """Text on this machine. `sha256` is over the documents' bytes in order; `bytes` is their sum.

    `origin` is an address without password, or a path as `spelled` writes it.
    """

    documents: list[Path]
    origin: str
    sha256: str
    bytes: int
    fallback_reason: str | None = None
    left_out: int = 0  # folders with output instead of text

    def remarks(self) -> list[str]:
        """What a person should know of what was taken."""
        folders = "1 folder" if self.left_out == 1 else f"{self.left_out:,} folders"
        return [f"{folders} with output of nanogpt or of tools left out of the text"] if self.left_out else []


def check_source(source: str, mirrors: Sequence[str] = (), encoding: str = "auto") -> None:
    """Refuse what cannot be learned from, before any work. Raises UserError; uses no network."""
    for mirror in mirrors:
        if is_redacted(mirror):
            raise UserError(f"data.mirror: {mirror}: *** stands for a password, which is not kept; give it again")
        if _is_url(mirror) and len(mirror.split()) > 1:  # a password with a blank could not be hidden
            raise UserError("data.mirror: found a URL with a blank; write it as %20")
        if not _is_valid_url(mirror) and not os.path.isdir(own_path(mirror)):  # unlike Path's own, it never raises
            raise UserError(
                f"data.mirror: {redacted(mirror)} is neither a folder nor a http(s) URL "
                "(a name with a comma: in a list)"
            )
    if source not in CATALOGUE and source != EMBEDDED:
        for document in own_documents(source):
            _check_document(document, encoding)


def fingerprint(source: str) -> str | dict[str, str]:
    """What changes when a person's own file or folder does; the digest or name for named sources.

    A digest for each document by its name, so that a message can name what changed; one digest for very many.
    """
    if source in CATALOGUE:
        return CATALOGUE[source].sha256
    if source == EMBEDDED:
        return EMBEDDED
    documents, folder = own_documents(source), own_path(source)
    named = {
        spelled(path.relative_to(folder) if path != folder else path.name): digest_of([path]) for path in documents
    }
    return {name: digest[:12] for name, digest in named.items()} if len(named) <= NAMED else durable.digest(named)


def licence(source: str) -> str | None:
    """The licence of a source; None for a person's own text, whose licence only they know."""
    if source == EMBEDDED:
        return "PSF-2.0 (Python's own documentation)"
    return CATALOGUE[source].licence if source in CATALOGUE else None


def language(source: str) -> str | None:
    """The language of a source in ISO 639-1; None for a person's own text."""
    if source == EMBEDDED:
        return "en"
    return CATALOGUE[source].language if source in CATALOGUE else None


def name_of(source: str) -> str:
    """What a source is called where others may read it: of a person's own text, the last part of its path."""
    if source in CATALOGUE or source == EMBEDDED:
        return source
    path = os.path.abspath(own_path(source))
    if path == os.path.abspath(os.path.expanduser("~")):
        return "home"  # its last part is who they are
    name = spelled(os.path.basename(path)) or UNKNOWN
    return f"{name} (own)" if name in CATALOGUE or name == EMBEDDED else name


def recorded_name(of_data: str | None, stated: str | None, text_sha256: str) -> str:
    """What a training calls its text: what its data says, else its configuration, else what the content is known as.

    `stated`: None where the configuration leaves it out. A name of the catalogue counts for its own content alone.
    """
    if of_data is not None:
        return of_data
    if stated is not None and stated != UNKNOWN and stated not in CATALOGUE:
        return stated
    return next((entry.name for entry in CATALOGUE.values() if entry.sha256 == text_sha256), UNKNOWN)


def fetch(
    source: str, folder: Path, mirrors: Sequence[str] = (), notify: Notify = say_nothing, encoding: str = "auto"
) -> Fetched:
    """The documents of `source`; downloads and the embedded corpus are kept in `folder`.

    A person's own documents stay where they are. `notify` gets each fault and its remedy.
    Raises UserError as check_source does, OSError when `folder` cannot be written.
    """
    check_source(source, mirrors, encoding)
    if source not in CATALOGUE and source != EMBEDDED:
        found = find_own(source)
        return _fetched(found.documents, spelled(own_path(source).resolve()), left_out=len(found.left_out))
    outputs.mark(folder)
    if source == EMBEDDED:
        return _fetched([write_embedded(folder)], EMBEDDED)
    try:
        path, origin = obtain(CATALOGUE[source], folder, mirrors, notify)
    except Unobtainable as error:
        remedy = "learning from the embedded corpus instead"
        notify(str(error), remedy)
        return _fetched([write_embedded(folder)], EMBEDDED, f"{error}; {remedy}")
    return _fetched([path], origin)


def obtain(entry: Entry, folder: Path, mirrors: Sequence[str] = (), notify: Notify = say_nothing) -> tuple[Path, str]:
    """The verified file of `entry` in `folder`, and where its bytes came from (a file already there: its public home).

    Raises Unobtainable when all mirrors and homes fail, OSError when `folder` cannot be written. If another process is
    downloading it without progress, mirrors that are folders are still tried.
    """
    part, failures = Part(folder / entry.file, entry.sha256, entry.bytes), list[str]()
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
        from nanogpt.data.download import Patience, download  # requests: 70 ms, and seconds on a busy machine

        patience = Patience()
        for place in places:
            address = entry.at(place)
            try:
                if _is_url(place):
                    download(address, part, patience, place == urls[-1], notify)
                else:
                    _copy(entry, own_path(address), part.whole)
                return part.whole, redacted(address) if _is_url(place) else spelled(address)
            except Unobtainable as error:
                failures.append(str(error))
                if place is not places[-1]:
                    notify(str(error), "tried the next place")
    raise Unobtainable(f"{entry.name} could not be obtained ({'; '.join(failures)})")


def _is_whole(part: Part, notify: Notify) -> bool:
    """Whether the file is already there, and right."""
    if not os.path.lexists(part.whole):
        return False
    try:
        if durable.sha256_file(part.whole) == part.sha256:
            return True
        problem = "sha256 differs"
    except OSError as error:
        problem = str(error.strerror)
    notify(f"{spelled(part.whole)} is not what it should be ({problem})", "fetched again")
    return False


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


def own_documents(source: str) -> list[Path]:
    """The files of a source that is a person's own. Raises UserError when there are none."""
    return find_own(source).documents


def expected_bytes(source: str) -> int:
    """Bytes of the text that a source gives, as far as they are known before it is fetched. Raises UserError."""
    if source in (*CATALOGUE, EMBEDDED):
        return CATALOGUE[source if source in CATALOGUE else "tiny_shakespeare"].bytes
    return sum(path.stat().st_size for path in own_documents(source))


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


def _check_document(path: Path, encoding: str) -> None:
    """Look at the first text in a file. Raises UserError when there is none, or what is there is not text."""
    try:
        with open(path, "rb") as file:
            head = next((piece for piece in iter(lambda: file.read(decoding.HEAD), b"") if piece.strip()), b"")
    except OSError as error:
        raise UserError(f"data.source: {spelled(path)} cannot be read ({error.strerror})") from error
    if not head:
        raise UserError(f"data.source: {spelled(path)} is empty")
    decoding.decode(head, path, encoding)


def digest_of(documents: list[Path]) -> str:
    """sha256 over the documents' bytes in order. Raises UserError when one cannot be read."""
    try:
        digests = [durable.sha256_file(path) for path in documents]
    except OSError as error:
        raise UserError(f"data.source: {spelled(error.filename)} cannot be read ({error.strerror})") from error
    return digests[0] if len(digests) == 1 else durable.digest(digests)


def _fetched(documents: list[Path], origin: str, fallback_reason: str | None = None, left_out: int = 0) -> Fetched:
    size = sum(path.stat().st_size for path in documents)
    return Fetched(documents, origin, digest_of(documents), size, fallback_reason, left_out)


def own_path(place: str) -> Path:
    """A path as a person or `spelled` wrote it; unlike Path.expanduser, a user that does not exist is no error yet."""
    path = Path(os.path.expanduser(place))
    return path if os.path.lexists(path) or "\\" not in place else path_of(str(path))


def _is_url(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _is_valid_url(place: str) -> bool:
    try:
        return _is_url(place) and bool(urlsplit(place).hostname)
    except ValueError:
        return False


def _copy(entry: Entry, source: Path, path: Path) -> None:
    if not source.is_file():
        raise Unobtainable(f"the mirror has no {spelled(source)}")
    try:
        content = source.read_bytes()
    except OSError as error:
        raise Unobtainable(f"the mirror's {spelled(source)} cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise Unobtainable(f"the mirror's {spelled(source)} is not {entry.name} (sha256 differs)")
    durable.unblock(path)
    durable.write_bytes(path, content)
