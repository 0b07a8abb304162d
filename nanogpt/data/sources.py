"""Where text comes from: a named source of the catalogue, a person's own file or folder, or the embedded corpus.

A download is tried from the mirror (a folder or a URL), then from its public home, and is only believed when its
sha256 is right. With neither, the run takes the documentation that every CPython carries, and says so.
"""

import ast
import os
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from nanogpt import durable
from nanogpt.data.preprocessing import is_binary
from nanogpt.faults import UserError, nearest

EMBEDDED = "embedded"
TEXT_SUFFIXES = (".txt", ".md")
ATTEMPTS = 3
# In all, over every attempt at mirror and home: a machine without network must fall back within 10 s.
ANSWER_SECONDS = 8.0
TRANSFER_SECONDS = 45.0
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """One file that can be downloaded. `mirror_file` is its path below a mirror."""

    name: str
    file: str
    url: str
    sha256: str
    description: str
    licence: str
    citation: str
    mirror_file: str = ""
    bytes: int = 0  # 0: not known

    def mirrored_at(self) -> str:
        return self.mirror_file or self.file


CATALOGUE = {
    "tiny_shakespeare": Entry(
        name="tiny_shakespeare",
        file="tinyshakespeare.txt",
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        description="40,000 lines of Shakespeare's plays, 1.1 MB",
        licence="public domain",
        citation="Andrej Karpathy, char-rnn, 2015, https://github.com/karpathy/char-rnn",
        bytes=1_115_394,
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


class Unobtainable(Exception):
    """Neither the mirror nor the public home gave the file; the message says why, in one line."""


def check_source(source: str, mirror: str | None = None) -> None:
    """Refuse what cannot be learned from, before any work. Raises UserError; touches no network."""
    if mirror is not None and not _is_url(mirror) and not _own(mirror).is_dir():
        raise UserError(f"data.mirror: {mirror} is neither a folder nor a http(s) URL")
    if source not in CATALOGUE and source != EMBEDDED:
        for document in own_documents(source):
            _check_document(document)


def fingerprint(source: str) -> str:
    """A digest that changes when a person's own file or folder does; the digest or name for named sources."""
    if source in CATALOGUE:
        return CATALOGUE[source].sha256
    if source == EMBEDDED:
        return EMBEDDED
    return durable.digest([[str(path), durable.sha256_file(path)] for path in own_documents(source)])


def licence(source: str) -> str | None:
    """Under which a source may be used; None for a person's own text, of which only they can know."""
    if source == EMBEDDED:
        return "PSF-2.0 (Python's own documentation)"
    return CATALOGUE[source].licence if source in CATALOGUE else None


def fetch(source: str, folder: Path, mirror: str | None = None, notify: Notify = lambda line: None) -> Fetched:
    """The documents of `source`; downloads and the embedded corpus are kept in `folder`.

    A person's own documents stay where they are. `notify` is told each fault in one line.
    Raises UserError as check_source does, OSError when `folder` cannot be written.
    """
    check_source(source, mirror)
    if source == EMBEDDED:
        return _fetched([write_embedded(folder)], EMBEDDED)
    if source not in CATALOGUE:
        return _fetched(own_documents(source), str(_own(source).resolve()))
    try:
        path, origin = obtain(CATALOGUE[source], folder, mirror, notify)
    except Unobtainable as error:
        reason = f"{error}; learning from the embedded corpus instead"
        notify(reason)
        return _fetched([write_embedded(folder)], EMBEDDED, reason)
    return _fetched([path], origin)


def obtain(
    entry: Entry, folder: Path, mirror: str | None = None, notify: Notify = lambda line: None
) -> tuple[Path, str]:
    """The verified file of `entry` in `folder`, and where its bytes came from (one that was there: its public home).

    Raises Unobtainable when mirror and home both fail, OSError when `folder` cannot be written.
    """
    path = folder / entry.file
    if path.is_file():
        if durable.sha256_file(path) == entry.sha256:
            return path, entry.url
        notify(f"{path} is not what it should be (sha256 differs); fetching it again")
    deadline = time.monotonic() + ANSWER_SECONDS
    failures = []
    for place in filter(None, (mirror, entry.url)):
        try:
            if _is_url(place):
                url = entry.url if place == entry.url else f"{place.rstrip('/')}/{entry.mirrored_at()}"
                _download(entry, url, folder, deadline)
                return path, url
            copy = _own(place) / entry.mirrored_at()
            _copy(entry, copy, path)
            return path, str(copy)
        except Unobtainable as error:
            failures.append(str(error))
            notify(str(error))
    raise Unobtainable(f"{entry.name} could not be had ({'; '.join(failures)})")


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


def _fetched(documents: list[Path], origin: str, fallback_reason: str | None = None) -> Fetched:
    if len(documents) == 1:
        sha256 = durable.sha256_file(documents[0])
    else:
        sha256 = durable.digest([durable.sha256_file(path) for path in documents])
    return Fetched(documents, origin, sha256, sum(path.stat().st_size for path in documents), fallback_reason)


def _own(place: str) -> Path:
    """A path that a person wrote; unlike Path.expanduser, a user that does not exist is no error yet."""
    return Path(os.path.expanduser(place))


def _is_url(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _copy(entry: Entry, source: Path, path: Path) -> None:
    if not source.is_file():
        raise Unobtainable(f"the mirror has no {source}")
    if durable.sha256_file(source) != entry.sha256:
        raise Unobtainable(f"the mirror's {source} is not {entry.name} (sha256 differs)")
    durable.write_bytes(path, source.read_bytes())


def _download(entry: Entry, url: str, folder: Path, answer_by: float) -> None:
    """Put the verified file into `folder`. Raises Unobtainable in time, whatever the network does."""
    folder.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(entry, url, folder)
    threading.Thread(target=transfer.run, name=f"download {entry.file}", daemon=True).start()
    host = urlsplit(url).netloc
    if not transfer.answered.wait(max(0.0, answer_by - time.monotonic())):
        transfer.given_up = True
        raise Unobtainable(f"no answer from {host}")
    if not transfer.ended.wait(TRANSFER_SECONDS):
        transfer.given_up = True
        raise Unobtainable(f"{host} is too slow: not whole after {TRANSFER_SECONDS:.0f} s")
    if transfer.error is not None:
        raise _explained(transfer.error, host)
    with open(folder / entry.file, "rb") as file:
        durable.fsync_file(file)
    durable.fsync_folder(folder)


@dataclass
class _Transfer:
    """One download in a thread of its own, for no socket's timeout bounds name resolution or a trickling server."""

    entry: Entry
    url: str
    folder: Path
    answered: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    given_up: bool = False

    def run(self) -> None:
        import pooch

        pooch.get_logger().setLevel("WARNING")
        entry = self.entry
        files = pooch.create(
            path=self.folder, base_url="", registry={entry.file: f"sha256:{entry.sha256}"},
            urls={entry.file: self.url}, retry_if_failed=ATTEMPTS - 1,
        )  # fmt: skip
        try:
            files.fetch(entry.file, downloader=self._stream)
        except Exception as error:
            self.error = error  # raised again by the thread that waits
        self.ended.set()
        self.answered.set()

    def _stream(self, url: str, output_file: str, _: object) -> None:
        import requests

        if self.given_up:
            raise _GivenUp
        with requests.get(url, stream=True, timeout=(3, 8)) as response:
            response.raise_for_status()
            self.answered.set()
            with open(output_file, "wb") as file:
                for chunk in response.iter_content(1 << 16):
                    if self.given_up:
                        raise _GivenUp
                    file.write(chunk)


class _GivenUp(Exception):
    """Nobody waits any more: ends pooch's retries."""


def _explained(error: Exception, host: str) -> Exception:
    """The network's faults in a few words; anything else (a full disk) as it is."""
    import requests

    if isinstance(error, requests.HTTPError):
        return Unobtainable(f"{host} answers {error.response.status_code} {error.response.reason}")
    if isinstance(error, requests.ConnectionError):
        return Unobtainable(f"no connection to {host}")
    if isinstance(error, requests.RequestException):
        return Unobtainable(f"the download from {host} failed ({type(error).__name__})")
    if isinstance(error, ValueError):
        return Unobtainable(f"{host} sent wrong bytes {ATTEMPTS} times (sha256 differs)")
    return error
