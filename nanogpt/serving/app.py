"""The application: both APIs, health and metrics, the page; every error is JSON in OpenAI's form."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from nanogpt import __version__, mistakes
from nanogpt.faults import nearest
from nanogpt.serving import attention, examples, ollama_api, openai_api
from nanogpt.serving.guard import Guard
from nanogpt.serving.metrics import Metrics
from nanogpt.serving.models import Models, OpenEngine, open_engine
from nanogpt.serving.openai_shapes import ChatRequest, CompletionRequest
from nanogpt.serving.refusals import Refusal
from nanogpt.serving.settings import Settings

PAGE = Path(__file__).with_name("page")
FIELDS = {"/v1/completions": CompletionRequest.model_fields, "/v1/chat/completions": ChatRequest.model_fields}


class Health(BaseModel):
    """status: draining while running requests are finished and no new ones are taken."""

    status: Literal["ok", "draining"]
    version: str
    models: int
    loaded: int


def create_app(
    settings: Settings, notify: Callable[[str], None] = lambda _: None, opening: OpenEngine = open_engine
) -> Guard:
    """The application behind its guard; `app.state.models` of the inner one is made when it starts.

    Raises UserError where a path of the settings holds no model.
    """
    metrics = Metrics()
    models = Models(settings, metrics, notify, opening)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await models.close(seconds=2.0)

    app = FastAPI(
        title="nanogpt serve",
        version=__version__,
        docs_url=None,  # their scripts come from another host, which the content policy forbids
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: f"{route.name}{route.path_format}",
    )
    guard = Guard(app, settings, metrics, files_of_page(PAGE))
    app.state.settings, app.state.models, app.state.guard = settings, models, guard
    app.state.model_folder = lambda name: _folder(models, name)
    app.include_router(openai_api.router)
    app.include_router(ollama_api.router)
    app.include_router(attention.router, responses=openai_api.ERRORS)
    app.include_router(examples.router, responses=openai_api.ERRORS)
    _add_monitoring(app, guard, models, metrics)
    answer_errors(app)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return guard


def answer_errors(app: FastAPI) -> None:
    """Every error of `app` is answered as JSON in OpenAI's form."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(Exception, _refused)  # it goes on to the guard, which logs it


def _add_monitoring(app: FastAPI, guard: Guard, models: Models, metrics: Metrics) -> None:
    @app.get("/health", responses={503: {"model": Health}, **openai_api.ERRORS})
    async def health(response: Response) -> Health:
        """200 while requests are taken, 503 when the server is about to end."""
        response.status_code = 503 if guard.draining else 200
        status: Literal["ok", "draining"] = "draining" if guard.draining else "ok"
        return Health(status=status, version=__version__, models=len(models.names), loaded=models.loaded)

    @app.get("/metrics", response_class=Response, responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **openai_api.ERRORS,
    })  # fmt: skip
    async def measures() -> Response:
        """What Prometheus reads."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


def files_of_page(page: Path) -> frozenset[str]:
    """The paths that a browser loads before anyone can have typed a token."""
    return frozenset(f"/{file.relative_to(page).as_posix()}" for file in page.rglob("*") if file.is_file())


def _folder(models: Models, name: str) -> Path:
    """Where a model lies. Raises KeyError."""
    try:
        return models.find(name).path
    except Refusal as refusal:
        raise KeyError(name) from refusal


async def _refused(request: Request, error: Exception) -> Response:
    """An error as JSON."""
    refusal = _as_refusal(error, request.url.path)
    headers = {**refusal.headers, **(dict(error.headers or {}) if isinstance(error, HTTPException) else {})}
    body = refusal.body(request.url.path)
    return Response(body, refusal.status, headers, media_type="application/json")


def _as_refusal(error: Exception, path: str) -> Refusal:
    if isinstance(error, RequestValidationError):
        return _of_field(error, path)
    if isinstance(error, HTTPException):
        return Refusal(error.status_code, str(error.detail), "not_found" if error.status_code == 404 else None)
    return error if isinstance(error, Refusal) else Refusal(500, "the server made a mistake; its log says where", "bug")


def _of_field(error: RequestValidationError, path: str) -> Refusal:
    """The first field that is not as it has to be; an unknown one comes first."""
    problems = error.errors()
    first = next((problem for problem in problems if problem["type"] in mistakes.UNKNOWN_KEY), problems[0])
    if first["type"] == "json_invalid":
        return Refusal(400, f"the body is no JSON: {first.get('ctx', {}).get('error', first['msg'])}", "invalid_json")
    location = [str(part) for part in first["loc"] if part != "body"]
    field = ".".join(location)
    if first["type"] in mistakes.UNKNOWN_KEY:
        near = nearest(location[-1], FIELDS.get(path, ()))
        return Refusal(400, f"{field}: {path} has no such field{near}", "unknown_field", field)
    if first["type"] == "missing":
        return Refusal(400, f"{field or 'the body'}: is missing", "missing_field", field or None)
    found = mistakes.found(first["input"])
    return Refusal(400, f"{field or 'the body'}: found {found}: {first['msg']}", "invalid_value", field or None)
