"""The view on a page: a server on the loopback address alone, and what the page asks it for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from nanogpt import __version__
from nanogpt.records import to_json
from nanogpt.serving.app import PAGE as CHAT_PAGE
from nanogpt.serving.app import answer_errors, files_of_page
from nanogpt.serving.guard import Guard
from nanogpt.serving.metrics import Metrics
from nanogpt.serving.server import GuardedServer, bind
from nanogpt.serving.settings import Settings
from nanogpt.watch.watched import Watched

PAGE = Path(__file__).with_name("page")
SHARED = ("colours.css", "dom.js", "theme.js")  # with the chat page
DIGITS = 6  # of a number in a curve: more than its pixels can show


def serve(watched: Watched, port: int, notify: Callable[[str], None]) -> None:
    """Serve the page until SIGTERM or SIGINT. Raises UserError when the port is taken."""
    settings = Settings(paths=(), port=port)
    listening = bind(settings.host, port)
    with contextlib.closing(listening):
        asyncio.run(GuardedServer(create_app(watched, settings), settings, notify).serve([listening]))


def create_app(watched: Watched, settings: Settings) -> Guard:
    """The application behind the guard of nanogpt serve: no page of another site can read from it."""
    app = FastAPI(title="nanogpt watch", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    answer_errors(app)

    @app.get("/view")
    def view() -> Any:  # JSON of a View; in a thread of its own, for it reads files
        return _rounded(to_json(watched.view()))

    for name in SHARED:
        app.add_api_route(f"/{name}", _sends(CHAT_PAGE / name))
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return Guard(app, settings, Metrics(), files_of_page(PAGE))


def _sends(file: Path) -> Callable[[], FileResponse]:
    return lambda: FileResponse(file)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if abs(value) < 10**DIGITS else round(value, 1)
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return value
