"""A connection that cannot be held open for nothing: deadlines for slow clients, a bound on their number."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from nanogpt.serving.refusals import Refusal
from nanogpt.serving.settings import Limits


class GuardedConnection(H11Protocol):
    """uvicorn's, with what it leaves to a proxy in front of it.

    A client has `read_seconds` for the headers of a request, however many bytes it sends meanwhile, and `send_seconds`
    to read on when it has stopped reading. Errors of the protocol are answered in JSON, as all others.
    """

    limits: Limits  # of the server; see guarded()
    _headers_due: asyncio.TimerHandle | None = None
    _reading_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(
                Refusal(503, f"{self.limits.connections} connections are open already", "too_many_connections")
            )
        else:
            self._await_headers()

    def data_received(self, data: bytes) -> None:
        self._await_headers()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:  # the headers are there, or nonsense was
            self._forget_headers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:  # the beginning of the next request
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_headers()
        self._forget_reading()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading_due = self.loop.call_later(self.limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_reading()

    def send_400_response(self, msg: str) -> None:
        self._refuse(
            Refusal(
                400, f"{msg} Its line or headers are no HTTP, or longer than {self.limits.headers:,} bytes", "bad_http"
            )
        )

    def _await_headers(self) -> None:
        if self._headers_due is None and self.conn.their_state is h11.IDLE:
            self._headers_due = self.loop.call_later(self.limits.read_seconds, self._too_slow)

    def _too_slow(self) -> None:
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(
                Refusal(408, f"the headers took longer than {self.limits.read_seconds:g} s to arrive", "too_slow")
            )
        else:
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer without the application, and close."""
        self._forget_headers()
        body = refusal.body("")
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        try:
            self.transport.write(self.conn.send(h11.Response(status_code=refusal.status, headers=headers)) or b"")
            self.transport.write(self.conn.send(h11.Data(data=body)) or b"")
        except h11.LocalProtocolError:  # an answer had been begun
            pass
        self.transport.close()

    def _forget_headers(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _forget_reading(self) -> None:
        if self._reading_due is not None:
            self._reading_due.cancel()
            self._reading_due = None


def guarded(limits: Limits) -> type[H11Protocol]:
    """The class of connections with these limits, as uvicorn's settings want it."""
    return type("Connection", (GuardedConnection,), {"limits": limits})
