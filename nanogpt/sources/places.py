"""Where the files of a data set lie: a hub, or a mirror that is a folder, a hub, a plain web server or a bucket.

Hubs speak the interface of huggingface.co (HF_ENDPOINT names another, HF_TOKEN is a person's key); a mirror of another
kind keeps a data set's files in MIRROR/datasets/OWNER/NAME, as `hf download` and `git clone` lay them out. Files are
read by ranges of bytes through fsspec.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import responses
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from nanogpt import durable
from nanogpt.sources.download import ANSWER_SECONDS
from nanogpt.sources.hub_address import HubAddress
from nanogpt.sources.hub_client import limit_answers
from nanogpt.sources.own import own_path
from nanogpt.sources.part import STANDSTILL_SECONDS, Unobtainable
from nanogpt.spelling import redacted

CARD = "README.md"  # says which files belong to which configuration
CONVERTED = "refs/convert/parquet"  # the hub's own parquet files of a data set that has others
Result = TypeVar("Result")


class Missing(Unobtainable):
    """A place answers, and has no such data set for this person."""


class Gated(Missing):
    """A hub has the data set for those who accepted its terms, and this person is not known as one."""


class ReadableFile(Protocol):
    """What pyarrow reads from."""

    @property
    def closed(self) -> bool: ...
    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Listing:
    """The files of a data set at one place. `sizes` in bytes and `digests` (sha256, where the place says them) by path;
    `card`: what the data set's README says of itself; `commit`: "" where the place knows none."""

    sizes: Mapping[str, int]
    digests: Mapping[str, str] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    commit: str = ""


class Place(Protocol):
    """`shown` has no password. `converts`: it keeps Parquet files of sets in other formats, at CONVERTED."""

    @property
    def shown(self) -> str: ...
    @property
    def converts(self) -> bool: ...

    def listing(self, revision: str) -> Listing:
        """Raises Unobtainable, or Missing when this place has no such data set."""

    def open(self, path: str, size: int, revision: str) -> ReadableFile:
        """A file to be read by ranges. Raises Unobtainable, as its methods do."""

    def sha256(self, path: str) -> str | None:
        """Of a file, where that costs no download and its listing does not say it."""


class Hub:
    """A data set on a hub. `endpoint`: None for the one that HF_ENDPOINT names, or huggingface.co."""

    converts = True

    def __init__(self, address: HubAddress, endpoint: str | None = None):
        from huggingface_hub import HfApi, HfFileSystem  # 0.3 s

        self.address = address
        limit_answers()
        self.is_home = endpoint is None
        token = None if self.is_home else False  # a person's key is for the hub, and for no mirror
        endpoint = endpoint or os.environ.get("HF_ENDPOINT") or None
        self._api = HfApi(endpoint=endpoint, token=token)
        self._files = HfFileSystem(endpoint=endpoint, token=token, skip_instance_cache=True)
        host = redacted(self._api.endpoint)
        self.shown = f"{host}/datasets/{address.repository}"
        self._explained = partial(explained, host, "data set", address.repository, address.revision)

    def listing(self, revision: str) -> Listing:
        with self._explained():
            info = within(
                ANSWER_SECONDS,
                lambda: self._api.dataset_info(
                    self.address.repository, revision=revision, files_metadata=True, timeout=ANSWER_SECONDS
                ),
            )
        files = info.siblings or []
        return Listing(
            {file.rfilename: file.size or 0 for file in files},
            {file.rfilename: file.lfs.sha256 for file in files if file.lfs},
            _as_mapping(info.card_data),
            info.sha or "",
        )

    def open(self, path: str, size: int, revision: str) -> ReadableFile:
        name = f"datasets/{self.address.repository}/{path}"
        with self._explained():
            file = self._files.open(name, revision=revision, size=size, cache_type="none")
        return _Checked(file, self._explained, size)

    def sha256(self, path: str) -> str | None:
        return None


@contextmanager
def explained(host: str, kind: Literal["data set", "model"], repository: str, revision: str) -> Iterator[None]:
    """Raise what goes wrong with a hub as Unobtainable, Missing or Gated, in one line without a password."""
    from huggingface_hub import errors
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's, or before 1.0 requests'

    try:
        yield
    except errors.GatedRepoError as error:
        page = f"{host}/{'datasets/' if kind == 'data set' else ''}{repository}"
        raise Gated(f"{repository} is for people who accepted its terms at {page}") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        known = isinstance(error, errors.RevisionNotFoundError)
        what = f"revision {revision} of {repository}" if known else f"{kind} {repository}"
        raise Missing(f"{host} has no {what}, or it is private") from error
    except errors.EntryNotFoundError as error:
        raise Missing(f"{host} has no such file of {repository}") from error
    except errors.HfHubHTTPError as error:
        status = int(error.response.status_code)
        failure = Missing if status in (401, 403, 404) else Unobtainable
        raise failure(f"{host} answers {status} {responses.get(status, '')}".rstrip()) from error
    except Unobtainable as error:
        raise type(error)(f"{host}: {error}") from error
    except ValueError as error:  # no JSON: some other page
        raise Missing(f"{host} is no hub") from error
    except (OSError, HTTPError) as error:
        raise Unobtainable(f"no connection to {host} ({type(error).__name__})") from error
    except (AttributeError, KeyError, TypeError) as error:  # JSON, of another kind than a hub's
        raise Unobtainable(f"{host} answers what no hub does ({type(error).__name__})") from error


class Files:
    """A data set's files below a folder, a bucket or a plain web server, each as fsspec sees it."""

    converts = False

    def __init__(self, address: HubAddress, mirror: str):
        import fsspec

        self.shown = redacted(mirror)
        is_url = "://" in mirror
        base = mirror.rstrip("/") if is_url else str(own_path(mirror).absolute())
        try:
            self._files, self._root = fsspec.core.url_to_fs(f"{base}/datasets/{address.repository}")
        except ImportError as error:  # names the package
            raise Unobtainable(f"{self.shown}: {error}") from error

    def listing(self, revision: str) -> Listing:
        with self._explained():
            found = within(ANSWER_SECONDS, lambda: self._files.find(self._root, detail=True))
            if not found:
                raise Missing("has no such data set")
            sizes = {self._path_of(name): self._size_of(name, info["size"]) for name, info in found.items()}
            card = self._files.cat_file(f"{self._root}/{CARD}").decode("utf-8", "replace") if CARD in sizes else ""
        return Listing(sizes, card=_front_matter(card))

    def open(self, path: str, size: int, revision: str) -> ReadableFile:
        with self._explained():
            file = self._files.open(f"{self._root}/{path}", "rb", cache_type="none")
        return _Checked(file, self._explained, size)

    def _path_of(self, name: str) -> str:
        return name.removeprefix(self._root).lstrip("/")

    def _size_of(self, name: str, listed: int | None) -> int:
        """A web server's list of files says no sizes: each file is asked, if it may be read."""
        may_be_read = name.endswith((".parquet", CARD))
        return int(self._files.size(name) or 0) if listed is None and may_be_read else listed or 0

    def sha256(self, path: str) -> str | None:
        return durable.sha256_file(Path(self._root, path)) if "file" in self._files.protocol else None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise Missing(f"{self.shown} has no such data set") from error
        except Unobtainable as error:
            raise type(error)(f"{self.shown} {error}") from error
        except Exception as error:  # whatever the library of a protocol raises: each has its own kinds
            raise Unobtainable(f"{self.shown} cannot be read ({redacted(first_line(error))})") from error


class WebMirror:
    """A mirror on the web: a hub, or else a server of plain files. One that does not answer is asked once."""

    def __init__(self, address: HubAddress, mirror: str):
        self._address, self._mirror = address, mirror
        self._served: Hub | Files = Hub(address, mirror.rstrip("/"))

    @property
    def shown(self) -> str:
        return self._served.shown

    @property
    def converts(self) -> bool:
        return self._served.converts

    def listing(self, revision: str) -> Listing:
        try:
            return self._served.listing(revision)
        except Missing:
            if isinstance(self._served, Hub):
                files = Files(self._address, self._mirror)
                with suppress(Missing):
                    listing = files.listing(revision)
                    self._served = files
                    return listing
            raise

    def open(self, path: str, size: int, revision: str) -> ReadableFile:
        return self._served.open(path, size, revision)

    def sha256(self, path: str) -> str | None:
        return self._served.sha256(path)


class _Checked:
    """A file of which nothing but what is asked for is fetched, and whose faults are explained."""

    def __init__(self, file: Any, explained: Callable[[], Any], size: int):
        self._file, self._explained, self._size = file, explained, size

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    def read(self, size: int = -1, /) -> bytes:
        first = self._file.tell()
        asked = self._size - first if size < 0 else min(size, self._size - first)
        with self._explained():
            content = bytes(self._file.read(asked)) if asked > 0 else b""
            if len(content) != max(asked, 0):
                raise Unobtainable(f"sent {len(content):,} bytes instead of the {asked:,} that were asked for")
        return content

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()


def whole_file(url: str) -> bytes:
    """A file of a bucket. Raises Unobtainable."""
    import fsspec

    shown = redacted(url)
    try:
        files, path = fsspec.core.url_to_fs(url)
        return bytes(within(STANDSTILL_SECONDS, lambda: files.cat_file(path)))
    except FileNotFoundError as error:
        raise Unobtainable(f"the mirror has no {shown}") from error
    except Unobtainable as error:
        raise Unobtainable(f"{shown}: {error}") from error
    except Exception as error:  # whatever the library of a protocol raises: each has its own kinds
        raise Unobtainable(f"{shown} cannot be read ({redacted(first_line(error))})") from error


def places_of(address: HubAddress, mirrors: Sequence[str]) -> Iterator[Place]:
    """The mirrors in their order, then the hub."""
    for mirror in mirrors:
        yield WebMirror(address, mirror) if mirror.startswith(("http://", "https://")) else Files(address, mirror)
    yield Hub(address)


def within(seconds: float, function: Callable[[], Result]) -> Result:
    """What `function` returns or raises; Unobtainable when it does neither in time: no timeout of a socket bounds the
    look-up of a name."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="asking a place", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise Unobtainable(f"no answer in {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]


def _front_matter(card: str) -> Mapping[str, Any]:
    from huggingface_hub import DatasetCard

    try:
        return _as_mapping(DatasetCard(card, ignore_metadata_errors=True).data) if card else {}
    except ValueError:  # no YAML, or none that says anything
        return {}


def _as_mapping(card: Any) -> Mapping[str, Any]:
    """Of huggingface_hub's CardData."""
    found: dict[str, Any] = card.to_dict() if card else {}
    return found


def first_line(error: Exception) -> str:
    """What an exception says, in short."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
