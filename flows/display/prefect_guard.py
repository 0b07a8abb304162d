"""The program of the Prefect server: Prefect's own application behind a guard that other web pages cannot pass.

    python -P flows/display/prefect_guard.py PORT

Prefect has no password unless a person types one, and answers every page that a browser has open. The guard compares
what a browser cannot be made to lie about: `Host`, against DNS rebinding, and `Origin`, which a browser adds to every
websocket and to every request that could change something. Prefect's client sends it too (prefect_process.environment).

It is started by its path, without the project: the server's folder is the workspace's.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from types import FrameType

import uvicorn
from prefect.server.api import server
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.services import task_run_recorder
from prefect.settings import get_current_settings
from sqlalchemy.exc import IntegrityError
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

HOST = "127.0.0.1"
PROCESS = "X-Process"  # a run knows by it that no other workspace's server answers in place of its own
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


class NoChores:
    """Instead of Prefect's queue for its background worker, which would look 20 times a second for what has expired."""

    def __init__(self, **_: object) -> None: ...

    async def __aenter__(self) -> "NoChores":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def add(self, *_: object, **__: object) -> Callable[..., Awaitable[None]]:
        return _nothing

    replace = add


async def _nothing(*_: object, **__: object) -> None: ...


@asynccontextmanager
async def no_worker(docket: NoChores, **_: bool) -> AsyncIterator[None]:
    """Instead of the worker itself, which looks 20 times a second for logs of deleted runs and the like."""
    yield


record_together = task_run_recorder.record_bulk_task_run_events


async def record(events: list[ReceivedEvent]) -> None:
    """Instead of Prefect's recorder of tasks, which drops all that came together with what it cannot record: those of a
    flow run that was deleted on its page while it worked."""
    try:
        await record_together(events)
    except IntegrityError:
        if len(events) > 1:
            for event in events:
                await record([event])


class WaitingServer(uvicorn.Server):
    """uvicorn's, which waits for the signal that ends it, instead of looking for it ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._asked = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        if not await self.on_tick(0):
            await self._asked.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._asked.set)


def main(port: int) -> None:
    # Of a core, while nothing is asked: 0.29 % with Prefect's queue and uvicorn's looks, 0.004 % without.
    server.background_worker, server.Docket = no_worker, NoChores
    task_run_recorder.record_bulk_task_run_events = record
    settings = get_current_settings().server
    config = uvicorn.Config(
        Guard(server.create_app(final=True), port), host=HOST, port=port, log_level=settings.logging_level.lower(),
        timeout_keep_alive=settings.api.keepalive_timeout, ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout, date_header=False,
        headers=[(PROCESS, str(os.getpid()))],
    )  # fmt: skip
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again that ended it
        WaitingServer(config).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
