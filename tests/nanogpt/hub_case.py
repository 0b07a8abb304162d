"""Data sets as they are published, on loopback: a hub such as huggingface.co, a bucket, and folders as mirrors.

The layouts (names of files, configurations, columns, cards) are the real ones; the texts are made here.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests import loopback

COMMIT = "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64"
CONVERTED = "refs/convert/parquet"


def parquet(
    texts: Sequence[str], rows_a_group: int = 10, others: Mapping[str, Sequence[object]] | None = None
) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts), **(others or {})}), buffer, row_group_size=rows_a_group)
    return buffer.getvalue()


def card(*configs: Mapping[str, object]) -> bytes:
    return f"---\n{yaml.safe_dump({'license': 'mit', 'configs': list(configs)})}---\n# A data set\n".encode()


def config(name: str, default: bool = False, **splits: str) -> dict[str, object]:
    files = [{"split": split, "path": path} for split, path in splits.items()]
    return {"config_name": name, "data_files": files, **({"default": True} if default else {})}


def stories(count: int, name: str = "story") -> list[str]:
    return [f"Once upon a time, {name} {number} began. " * 20 + "\n" for number in range(count)]


def wikitext_lines(articles: int, name: str = "Article") -> list[str]:
    """A row each line, as Salesforce/wikitext has them."""
    lines = []
    for number in range(articles):
        lines += ["", f" = {name} {number} = \n", "", f" Words of {name} {number} . \n" * 3, "", " = = Part = = \n", "",
                  " x = y = z \n"]  # fmt: skip
    return lines


@dataclass
class Repository:
    """Files by path; `token`: who may see it; `gated`: who may see its files only."""

    files: dict[str, bytes]
    converted: dict[str, bytes] = field(default_factory=dict)  # at refs/convert/parquet
    token: str | None = None
    gated: bool = False
    commit: str = COMMIT


def tinystories(count: int = 40) -> Repository:
    texts = stories(count)
    return Repository({
        "README.md": b"---\nlicense: cdla-sharing-1.0\n---\n",
        "TinyStories-train.txt": "<|endoftext|>\n".join(texts).encode(),
        "data/train-00000-of-00002-2d5a1467fff1081b.parquet": parquet(texts[: count // 2]),
        "data/train-00001-of-00002-5852b56a2bd28fd9.parquet": parquet(texts[count // 2 :]),
        "data/validation-00000-of-00001-869c898b519ad725.parquet": parquet(stories(4, "held-out story")),
    })  # fmt: skip


def wikitext() -> Repository:
    files, configs = {}, []
    for name in ("wikitext-103-raw-v1", "wikitext-103-v1", "wikitext-2-raw-v1", "wikitext-2-v1"):
        half = wikitext_lines(15, f"{name} first"), wikitext_lines(15, f"{name} second")
        parts = half if "103" in name else (half[0] + half[1],)
        for number, lines in enumerate(parts):
            files[f"{name}/train-{number:05d}-of-{len(parts):05d}.parquet"] = parquet(lines)
        for split in ("validation", "test"):
            files[f"{name}/{split}-00000-of-00001.parquet"] = parquet(wikitext_lines(3, f"{name} {split}"))
        configs.append(config(name, **{split: f"{name}/{split}-*" for split in ("test", "train", "validation")}))
    return Repository({"README.md": card(*configs), **files})


def fineweb_edu() -> Repository:
    def shard(name: str) -> bytes:
        rows = range(30)
        others = {"id": [f"<urn:{name}:{row}>" for row in rows], "url": [f"https://{row}.example" for row in rows],
                  "token_count": list(rows), "score": [float(row) for row in rows]}  # fmt: skip
        return parquet(stories(len(rows), name), 10, others)

    return Repository({
        "README.md": card(config("default", train="data/*/*"), config("sample-10BT", train="sample/10BT/*")),
        "data/CC-MAIN-2024-10/train-00000-of-00014.parquet": shard("crawl"),
        "sample/10BT/000_00000.parquet": shard("sample"),
        "sample/10BT/001_00000.parquet": shard("second sample"),
        "sample/100BT/000_00000.parquet": shard("larger sample"),
    })  # fmt: skip


def openwebtext(count: int = 30) -> Repository:
    return Repository({
        "README.md": card(config("plain_text", True, train="plain_text/train-*")),
        "plain_text/train-00000-of-00002.parquet": parquet(stories(count, "page")),
        "plain_text/train-00001-of-00002.parquet": parquet(stories(count, "other page")),
    })  # fmt: skip


def catalogue() -> dict[str, Repository]:
    """What the catalogue names, in small."""
    return {
        "Salesforce/wikitext": wikitext(),
        "roneneldan/TinyStories": tinystories(),
        "Skylion007/openwebtext": openwebtext(),
        "HuggingFaceFW/fineweb-edu": fineweb_edu(),
    }


@dataclass
class Request:
    path: str
    range: str | None
    authorization: str | None
    sent: int = 0


class Hub:
    """`repositories` by OWNER/NAME. `requests`: what was asked, and how many bytes of files were sent. `fails`: paths
    of files (a part is enough) that are answered with 404. The repositories are in s3://bucket/copies too, with
    `objects`, and at /plain/ as a web server shows folders. `before_file` is called before a file is sent."""

    def __init__(self, repositories: dict[str, Repository]):
        self.repositories, self.requests, self.fails = repositories, list[Request](), list[str]()
        self.objects = dict[str, bytes]()
        self.before_file: Callable[[Request], object] = lambda request: None
        self.address = ""

    @property
    def sent_bytes(self) -> int:
        return sum(request.sent for request in self.requests)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        request = Request(path, handler.headers.get("Range"), handler.headers.get("Authorization"))
        self.requests.append(request)
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._answer_about(handler, request, found[1], found[2] or "main")
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/(refs/convert/parquet|[^/]+)(?:/(.+))?", path):
            self._answer_tree(handler, request, found[1], found[2], found[3] or "")
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/(refs/convert/parquet|[^/]+)/(.+)", path):
            self._answer_file(handler, request, *found.groups())
        elif path.startswith("/plain/"):
            self._answer_plain(handler, request, path.removeprefix("/plain/"))
        elif path.startswith("/bucket"):
            self._answer_bucket(handler, request, path.removeprefix("/bucket").lstrip("/"))
        else:
            refuse(handler, 404)

    def _files(self, name: str, revision: str) -> dict[str, bytes] | None:
        repository = self.repositories[name]
        if revision in (CONVERTED, f"converted-{repository.commit}"):
            return repository.converted or None
        return repository.files if revision in ("main", repository.commit) else None

    def _may_see(self, request: Request, repository: Repository) -> bool:
        return repository.token is None or request.authorization == f"Bearer {repository.token}"

    def _answer_about(self, handler: BaseHTTPRequestHandler, request: Request, name: str, revision: str) -> None:
        repository = self.repositories.get(name)
        if repository is None or not (repository.gated or self._may_see(request, repository)):
            return refuse(handler, 401, "RepoNotFound")
        files = self._files(name, revision)
        if files is None:
            return refuse(handler, 404, "RevisionNotFound")
        readme = re.match(rb"---\n(.*?)---\n", files.get("README.md", b""), re.DOTALL)
        siblings = [
            {"rfilename": path, "size": len(content), "blobId": "0" * 40,
             "lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}
            for path, content in files.items()
        ]  # fmt: skip
        commit = repository.commit if files is repository.files else f"converted-{repository.commit}"
        about = {"id": name, "sha": commit, "siblings": siblings, "private": False, "gated": repository.gated,
                 "disabled": False, "tags": [], "downloads": 0, "likes": 0,
                 "cardData": yaml.safe_load(readme[1]) if readme else None}  # fmt: skip
        send(handler, request, json.dumps(about).encode(), "application/json")
        request.sent = 0  # of files alone

    def _answer_tree(
        self, handler: BaseHTTPRequestHandler, request: Request, name: str, revision: str, folder: str
    ) -> None:
        files = self._files(name, revision) or {}
        rows = [
            {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
            for path, content in files.items()
            if path.rpartition("/")[0] == folder
        ]
        if not rows:
            return refuse(handler, 404, "EntryNotFound")
        send(handler, request, json.dumps(rows).encode(), "application/json")
        request.sent = 0

    def _answer_file(
        self, handler: BaseHTTPRequestHandler, request: Request, name: str, revision: str, path: str
    ) -> None:
        repository = self.repositories.get(name)
        if repository is None:
            return refuse(handler, 401, "RepoNotFound")
        if not self._may_see(request, repository):
            return refuse(handler, 403, "GatedRepo") if repository.gated else refuse(handler, 401, "RepoNotFound")
        content = (self._files(name, revision) or {}).get(path)
        if content is None or any(part in path for part in self.fails):
            return refuse(handler, 404, "EntryNotFound")
        self.before_file(request)
        send(handler, request, content)

    def _answer_plain(self, handler: BaseHTTPRequestHandler, request: Request, path: str) -> None:
        """As a web server shows folders."""
        files = self._mirrored()
        if path in files:
            return send(handler, request, files[path])
        folder = path.rstrip("/") + "/"
        inside = {name.removeprefix(folder).partition("/") for name in files if name.startswith(folder)}
        if not inside:
            return refuse(handler, 404)
        links = "".join(f'<a href="{name}{slash}">{name}</a>' for name, slash in sorted({part[:2] for part in inside}))
        send(handler, request, f"<html>{links}</html>".encode(), "text/html")

    def _mirrored(self) -> dict[str, bytes]:
        return {
            f"datasets/{name}/{path}": content
            for name, repository in self.repositories.items()
            for path, content in repository.files.items()
        }

    def _answer_bucket(self, handler: BaseHTTPRequestHandler, request: Request, key: str) -> None:
        objects = {f"copies/{path}": content for path, content in {**self._mirrored(), **self.objects}.items()}
        if key in objects:
            return send(handler, request, objects[key])
        if key or "list-type=2" not in handler.path:
            return refuse(handler, 404)
        wanted = unquote(re.search(r"prefix=([^&]*)", handler.path)[1])
        rows = "".join(
            f"<Contents><Key>{name}</Key><Size>{len(content)}</Size><ETag>x</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            for name, content in objects.items()
            if name.startswith(wanted)
        )
        listing = f"<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
        send(handler, request, listing.encode(), "application/xml")


def send(
    handler: BaseHTTPRequestHandler, request: Request, content: bytes, kind: str = "application/octet-stream"
) -> None:
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range or "")
    first, end = (int(asked[1]), int(asked[2] or len(content) - 1) + 1) if asked else (0, len(content))
    part = content[first:end]
    handler.send_response(206 if asked else 200)
    if asked:
        handler.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(part)))
    handler.send_header("Content-Type", kind)
    handler.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
    handler.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(part)
        request.sent = len(part)


def refuse(handler: BaseHTTPRequestHandler, status: int, code: str | None = None) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", "0")
    if code:
        handler.send_header("X-Error-Code", code)
    handler.end_headers()


@contextmanager
def serving(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """A hub at `address`."""
    hub = Hub(repositories)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.answer(self)

        do_HEAD = do_GET

    with loopback.serving(Handler) as hub.address:
        yield hub


def write_mirror(folder: Path, repositories: Mapping[str, Repository]) -> Path:
    """`folder` as a mirror, laid out as `hf download` does."""
    for name, repository in repositories.items():
        for path, content in repository.files.items():
            target = folder / "datasets" / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return folder
