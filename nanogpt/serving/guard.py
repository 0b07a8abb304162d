"""What every request passes before the application sees it, and what every answer carries."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from nanogpt.serving.metrics import Metrics
from nanogpt.serving.refusals import Refusal, refusal_of
from nanogpt.serving.settings import LOOPBACK_NAMES, Settings, is_address

Message = MutableMapping[str, Any]  # ASGI's own: what it holds depends on its type
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/", "/health"})  # without a token
SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
log, access = logging.getLogger("nanogpt"), logging.getLogger("nanogpt.access")


class Guard:
    """An ASGI application around another one.

    It refuses what does not come from a page of this server or from a program with its token, reads the body within
    its limits, cancels the work for a client that is gone, counts, and writes a line of log without any of the text.
    """

    def __init__(self, app: App, settings: Settings, metrics: Metrics, open_paths: frozenset[str] = frozenset()):
        self.app, self.settings, self.metrics = app, settings, metrics
        self._open_paths = OPEN_PATHS | open_paths
        self.draining = False  # running requests are finished, new ones refused
        self.running = 0
        own = (*LOOPBACK_NAMES, settings.host, *settings.hosts)
        self._hosts = {name.lower() for name in own}
        self._token = settings.token.encode("ascii") if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        answer = _Answer(send, scope["path"])
        started = time.perf_counter()
        self.running += 1
        self.metrics.running.set(self.running)
        try:
            await self._answer(scope, receive, answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except Exception as error:
            # Its words are left out: they may quote what a client has sent.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s %s failed: %s\n%s", scope.get("method"), _shown(scope), type(error).__name__, where)
            await answer.refuse(refusal_of(error))
        finally:
            self.running -= 1
            self.metrics.running.set(self.running)
            self._note(scope, answer.status or 499, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        if scope["type"] != "http":
            raise Refusal(400, "only HTTP is spoken here", "bad_protocol")
        headers = _headers(scope)
        self._check_host(headers)
        self._check_token(scope["path"], headers)
        if self.draining and scope["path"] != "/health":
            raise Refusal(503, "the server is about to end; no new requests", "draining", retry_after=5)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            self._check_origin(headers)
            self._check_type(headers)
        body = await self._body(receive, headers)
        await _until_gone(self.app, scope, receive, answer.send, body)

    def _check_host(self, headers: dict[str, str]) -> None:
        """A site whose name is made to point to this machine (DNS rebinding) is not one of ours."""
        name = _host_name(headers.get("host", ""))
        if name not in self._hosts and not (self.settings.is_wildcard and is_address(name)):
            raise Refusal(403, f"Host: {name or 'none'!r} is no name of this server; --allow-host adds one", "bad_host")

    def _check_token(self, path: str, headers: dict[str, str]) -> None:
        if self._token is None or path in self._open_paths:
            return
        kind, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip().encode("latin-1", errors="replace")
        if kind.lower() != "bearer" or not hmac.compare_digest(given, self._token):
            raise Refusal(
                401, "Authorization: should be `Bearer TOKEN` with the token of this server", "invalid_api_key"
            )

    def _check_origin(self, headers: dict[str, str]) -> None:
        """Pages of other sites are kept out; programs send no Origin."""
        origin = headers.get("origin")
        own = f"http://{headers['host']}", f"https://{headers['host']}"  # https: a proxy in front of it
        if origin is not None and origin not in own and origin not in self.settings.origins:
            raise Refusal(403, "Origin: pages of other sites may not post here; --allow-origin adds one", "bad_origin")

    def _check_type(self, headers: dict[str, str]) -> None:
        """A form of another site can post text, but no JSON without asking first."""
        kind, _, parameters = headers.get("content-type", "").partition(";")
        if kind.strip().lower() != "application/json":
            raise Refusal(415, "Content-Type: should be application/json", "unsupported_media_type")
        if parameters.strip().lower() not in ("", "charset=utf-8", 'charset="utf-8"'):
            raise Refusal(415, "Content-Type: should be in UTF-8", "unsupported_media_type")

    async def _body(self, receive: Receive, headers: dict[str, str]) -> bytes:
        """The whole body. Raises Refusal when it is too large, or a client takes too long over it."""
        limits = self.settings.limits
        too_large = Refusal(413, f"the body is larger than {limits.body:,} bytes", "too_large")
        stated = headers.get("content-length", "0")
        if len(stated) > 18 or int(stated) > limits.body:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(limits.read_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "the client left in the middle of its body", "gone")
                    body += message.get("body", b"")
                    if len(body) > limits.body:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise Refusal(408, f"the body took longer than {limits.read_seconds:g} s to arrive", "too_slow") from None

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None)
        path = route if isinstance(route, str) and route else "other"  # not what a client invents: labels are kept
        self.metrics.requests.labels(path, str(status)).inc()
        self.metrics.request_seconds.labels(path).observe(seconds)
        access.info("%s %s %d %.2f s", scope.get("method", "-"), _shown(scope), status, seconds)


class _Answer:
    """Sends, and adds the headers that every answer carries."""

    def __init__(self, send: Send, path: str):
        self._send, self._path = send, path
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name.lower() for name, _ in message["headers"]}
            more = [(name.encode(), value.encode()) for name, value in SECURITY.items() if name.encode() not in given]
            message = {**message, "headers": [*message["headers"], *more]}
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """The refusal, unless an answer has been begun: that one is cut off."""
        if self.status:
            return
        body = refusal.body(self._path)
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
        if refusal.status in (408, 413, 503):
            headers["connection"] = "close"  # the rest of its body is not read
        if refusal.status == 401:
            headers["www-authenticate"] = "Bearer"
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body})


async def _until_gone(app: App, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
    """Run `app` with this body; cancel it when the client is gone."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]
    gone = asyncio.Event()

    async def replay() -> Message:
        if pending:
            return pending.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    work = asyncio.ensure_future(app(scope, replay, send))
    watcher = asyncio.ensure_future(watch())
    try:
        await asyncio.wait((work, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
    finally:
        work.cancel()
        watcher.cancel()


def _headers(scope: Scope) -> dict[str, str]:
    """By name in small letters. Raises Refusal where one that decides is there twice."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in headers and key in ("host", "origin", "authorization", "content-type", "content-length"):
            raise Refusal(400, f"{key}: is there twice", "bad_http")
        headers[key] = value.decode("latin-1")
    return headers


def _host_name(host: str) -> str:
    """The name in a Host header, without its port and without the brackets of IPv6."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _shown(scope: Scope) -> str:
    """The path as it was sent, so percent-encoded: nothing in it reaches the terminal as a control character."""
    raw: bytes = scope.get("raw_path") or b"?"
    return raw[:200].decode("ascii", errors="backslashreplace")
