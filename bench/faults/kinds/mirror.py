"""A download server on loopback that behaves as asked: slow, cut off, wrong, unavailable, then right."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = 16 << 10


@dataclass(frozen=True)
class Answer:
    """How one request is answered. `until`: the byte of the file before which the connection ends; `per_second`:
    bytes; `waits`: for this event in the middle."""

    status: int = 200
    wrong: bool = False
    until: int | None = None
    ranges: bool = True
    per_second: int | None = None
    waits: threading.Event | None = None

    def send(self, handler: BaseHTTPRequestHandler, content: bytes) -> None:
        if self.status != 200:
            return handler.send_error(self.status)
        body = content[::-1] if self.wrong else content
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        first = int(asked[1]) if asked and self.ranges else 0
        handler.send_response(206 if first else 200)
        if first:
            handler.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        handler.send_header("Content-Length", str(len(body) - first))
        handler.send_header("ETag", '"as it is"')
        handler.end_headers()
        self._write(handler, body[first : self.until], len(body) // 2 - first)

    def _write(self, handler: BaseHTTPRequestHandler, body: bytes, middle: int) -> None:
        for at in range(0, len(body), PIECE):
            if self.waits and at > middle:
                handler.wfile.flush()
                self.waits.wait()
            handler.wfile.write(body[at : at + PIECE])
            if self.per_second:
                handler.wfile.flush()
                time.sleep(PIECE / self.per_second)


@dataclass
class Mirror:
    """A server's address and the Range of each request that it got ("" for the whole)."""

    url: str = ""
    asked: list[str] = field(default_factory=list)


@contextmanager
def mirror(content: bytes, *answers: Answer) -> Iterator[Mirror]:
    """Serves `content` at every path: the n-th request as answers[n] says, the last one for ever."""
    served = Mirror()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.headers.get("Range", ""))
            answers[min(len(served.asked), len(answers)) - 1].send(self, content)

        def log_message(self, *_: object) -> None:
            """Nothing: the campaign's terminal is for its rows."""

    server = _Quiet(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        for answer in answers:
            if answer.waits:
                answer.waits.set()
        server.shutdown()
        server.server_close()


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what some kinds are about."""
