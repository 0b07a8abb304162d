"""The program of the Prefect server: Prefect's own application behind a guard that other web pages cannot pass.

    python -P flows/display/prefect_guard.py PORT

Prefect has no password unless a person types one, and answers every page that a browser has open. The guard compares
what a browser cannot be made to lie about: `Host`, against DNS rebinding, and `Origin`, which a browser adds to every
websocket and to every request that could change something. Prefect's client sends it too (prefect_process.environment).

It is started by its path, without the project: the server's folder is the workspace's.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from prefect.server.api import server
from prefect.settings import get_current_settings
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

HOST = "127.0.0.1"
READING = ("GET", "HEAD")


class Guard:
    """Passes on to `app` what comes from its own pages or its own client, and refuses the rest with 403."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in (HOST, "localhost", "[::1]")}
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_ours(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(reason="foreign origin")(scope, receive, send)
        else:
            answer = f"This server answers its own pages only, at {' or '.join(sorted(self._origins))}.\n"
            await PlainTextResponse(answer, 403)(scope, receive, send)

    def _is_ours(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return False
        if not origins:
            return scope["type"] == "http" and scope["method"] in READING
        return all(origin in self._origins for origin in origins)


@asynccontextmanager
async def no_chores(docket: object, **_: bool) -> AsyncIterator[None]:
    """Instead of Prefect's background worker, which looks 20 times a second for logs of deleted runs and the like."""
    yield


def main(port: int) -> None:
    server.background_worker = no_chores  # 1.5 % of a core with it, 0.35 % without
    settings = get_current_settings().server
    uvicorn.run(
        Guard(server.create_app(final=True), port), host=HOST, port=port, log_level=settings.logging_level.lower(),
        timeout_keep_alive=settings.api.keepalive_timeout, ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
    )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]))
