"""One server from its port to its end: it listens, says where and with what, and finishes what it has begun."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import NoReturn

import uvicorn

from nanogpt.faults import UserError
from nanogpt.serving.app import create_app
from nanogpt.serving.connection import guarded
from nanogpt.serving.guard import Guard
from nanogpt.serving.models import Models, OpenEngine, open_engine
from nanogpt.serving.refusals import Refusal
from nanogpt.serving.settings import Settings

PORTS_TRIED = 100  # for a free one to name, where the port is taken
HIGHEST_PORT = 65535
LOOK_AGAIN = 0.05  # seconds, while running requests are finished


def run(settings: Settings, notify: Callable[[str], None], opening: OpenEngine = open_engine) -> None:
    """Serve until SIGTERM or SIGINT, which let running requests finish; a second one ends them too.

    Raises UserError when the port is taken, when a path holds no model, and when the only model cannot be opened.
    """
    listening = bind(settings.host, settings.port)
    with contextlib.closing(listening):
        server = Server(settings, notify, opening)
        asyncio.run(server.serve([listening]))
        if server.failure is not None:
            raise server.failure


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UserError naming a free port where this one is taken."""
    try:
        return _bound(host, port)
    except OSError as error:
        _explain(host, port, error)


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there it would let two servers share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError:
        listening.close()
        raise
    return listening


def _explain(host: str, port: int, error: OSError) -> NoReturn:
    if isinstance(error, socket.gaierror):
        raise UserError(f"--host {host}: there is no such address ({error.strerror})") from None
    if error.errno == errno.EADDRINUSE:
        free = _free_port(host, port)
        raise UserError(
            f"--port {port}: is taken on {host}{f'; {free} is free: --port {free}' if free else ''}"
        ) from None
    raise UserError(f"--host {host} --port {port}: {error.strerror or error}") from None


def _free_port(host: str, port: int) -> int | None:
    """The next one above `port` that is free."""
    for other in range(port + 1, min(port + PORTS_TRIED, HIGHEST_PORT) + 1):
        with contextlib.suppress(OSError):
            _bound(host, other).close()
            return other
    return None


class GuardedServer(uvicorn.Server):
    """uvicorn's around a guarded application, with an end of its own: it answers 503 while it finishes what it has
    begun."""

    def __init__(self, guard: Guard, settings: Settings, notify: Callable[[str], None]):
        self.guard, self.settings, self.notify = guard, settings, notify
        self._background: set[asyncio.Task[None]] = set()
        limits = settings.limits
        super().__init__(
            uvicorn.Config(
                guard,
                http=guarded(limits),
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=limits.headers,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=2,
                backlog=1024,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets, "it is given the socket that it listens on"
        self.has_started(f"http://{_address(sockets[0])}")

    def has_started(self, address: str) -> None:
        """It listens there now."""
        self.notify(f"{address} (Ctrl-C ends it)")

    async def close(self) -> None:
        """Once no request is running any more, or their time is up."""

    def drain(self) -> None:
        """Finish running requests, refuse new ones, then end; the second call ends at once."""
        if self.guard.draining:
            self.should_exit = True
            return
        self.guard.draining = True
        self.in_background(self._finish())

    async def _finish(self) -> None:
        running, seconds = self.guard.running, self.settings.limits.drain_seconds
        if running:
            requests = "1 request is" if running == 1 else f"{running} requests are"
            self.notify(f"ending: {requests} finished first, for at most {seconds:g} s (Ctrl-C ends them too)")
        until = asyncio.get_running_loop().time() + seconds
        while self.guard.running and not self.should_exit and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(LOOK_AGAIN)
        await self.close()
        self.should_exit = True

    def in_background(self, work: Coroutine[None, None, None]) -> None:
        """Let `work` run while the server does."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Instead of uvicorn's, which raises the signal again: a server that was asked to end exits with 0."""
        loop = asyncio.get_running_loop()
        caught: list[signal.Signals] = []
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # Windows; a thread of a test
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.drain)
                caught.append(number)
        try:
            yield
        finally:
            for number in caught:
                loop.remove_signal_handler(number)


class Server(GuardedServer):
    """That of nanogpt serve, with the models behind it."""

    def __init__(self, settings: Settings, notify: Callable[[str], None], opening: OpenEngine = open_engine):
        guard = create_app(settings, notify, opening)
        self.models: Models = guard.app.state.models  # type: ignore[attr-defined]
        self.failure: BaseException | None = None
        super().__init__(guard, settings, notify)

    def has_started(self, address: str) -> None:
        self.notify(f"serving {_listed(self.models.names)}")
        super().has_started(address)
        self.in_background(self._load_first())

    async def close(self) -> None:
        await self.models.close(seconds=0.5)  # what is still written ends with an error

    async def _load_first(self) -> None:
        """The first model is loaded before anyone asks for it; where it is the only one, the server needs it."""
        try:
            worker = self.models.opened(self.models.find(None)).worker
        except Refusal:  # it is gone already, or others keep all places busy
            return
        while worker.state == "loading":
            await asyncio.sleep(LOOK_AGAIN)
        if worker.state == "failed" and len(self.models.names) == 1:
            self.failure = worker.error
            self.should_exit = True


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
