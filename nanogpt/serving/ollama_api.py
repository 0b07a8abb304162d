"""The part of Ollama's API that costs little: /api/generate, /api/chat, /api/tags and /api/version."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from nanogpt import __version__
from nanogpt.inference.conversation import Message, Play
from nanogpt.inference.options import Options
from nanogpt.serving import orders
from nanogpt.serving.openai_api import Responses, TheLimits, TheModels
from nanogpt.serving.openai_shapes import ANY_OBJECT, FirstMistake, Shape, Strings
from nanogpt.serving.orders import Stream, Texts
from nanogpt.serving.refusals import Refusal
from nanogpt.serving.settings import Limits

PLAY = Play()
Shaped = TypeVar("Shaped", bound="_Answer")


class OllamaError(BaseModel):
    error: str


ERRORS: Responses = {"4XX": {"model": OllamaError}, "5XX": {"model": OllamaError}}
STREAMED: Responses = {200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}}
router = APIRouter(prefix="/api")


class OllamaOptions(Shape):
    num_predict: int | None = Field(None, ge=-2, description="-1 and -2: as many as the server allows")
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=1, le=1 << 31)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    typical_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    repeat_penalty: float | None = Field(None, gt=0, le=100, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63, description="below 0: a fresh one each time")
    stop: Strings | None = None


class OllamaRequest(Shape):
    model: str
    stream: bool | None = Field(None, description="in pieces, which is the default here")
    options: OllamaOptions | None = None
    keep_alive: str | int | None = Field(None, description="ignored")
    think: Literal[False] | None = None
    format: Literal["", "json"] | dict[str, object] | None = Field(None, description="json, or a JSON schema")

    def engine_options(self, limits: Limits, *stops: str) -> Options:
        """What a request leaves out is as in the engine. Raises Refusal."""
        asked, usual = self.options or OllamaOptions(), Options()
        orders.check_stops(asked.stop or (), limits)
        tokens = limits.default_tokens if asked.num_predict is None else asked.num_predict
        return Options(
            max_new_tokens=tokens if tokens > 0 else limits.max_tokens,
            temperature=usual.temperature if asked.temperature is None else asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            min_p=asked.min_p,
            typical_p=asked.typical_p,
            repetition_penalty=usual.repetition_penalty if asked.repeat_penalty is None else asked.repeat_penalty,
            seed=None if (asked.seed or 0) < 0 else asked.seed,
            stop=(*(asked.stop or ()), *stops),
            json_schema=ANY_OBJECT if self.format == "json" else self.format or None,
        )


class GenerateRequest(OllamaRequest):
    prompt: str = ""
    system: str = ""
    raw: bool | None = Field(None, description="ignored: there is no template")
    suffix: Literal[""] | None = None


class OllamaMessage(Shape):
    role: Literal["system", "user", "assistant"]
    content: str = ""


class OllamaChatRequest(OllamaRequest):
    messages: Annotated[list[OllamaMessage], FirstMistake()] = Field(min_length=1)


class _Answer(BaseModel):
    """total_duration and eval_duration in nanoseconds; they and the counts come with the last piece."""

    model_config = ConfigDict(extra="forbid")

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length"] | None = None
    total_duration: int | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


class Generated(_Answer):
    response: str


class Replied(_Answer):
    message: OllamaMessage


class Details(BaseModel):
    format: str = "safetensors"
    family: str
    parameter_size: str


class Tag(BaseModel):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class Tags(BaseModel):
    models: list[Tag]


class Version(BaseModel):
    version: str


@router.get("/version", responses=ERRORS)
async def version() -> Version:
    return Version(version=__version__)


@router.get("/tags", responses=ERRORS)
async def tags(models: TheModels) -> Tags:
    """What is on disk now. The digest changes when the weights do."""
    listed = []
    for offered in models.offered():
        found = offered.found
        details = Details(family="nanogpt", parameter_size=str(found.parameters or ""))
        changed = datetime.fromtimestamp(found.changed, UTC).isoformat()
        digest = orders.fingerprint(found.version)
        listed.append(Tag(name=found.id, model=found.id, modified_at=changed, size=found.version[1], digest=digest,
                          details=details))  # fmt: skip
    return Tags(models=listed)


@router.post("/generate", response_model=Generated, responses={**ERRORS, **STREAMED})
async def generate(request: GenerateRequest, models: TheModels, limits: TheLimits) -> Generated | Stream:
    """The text that follows `system` and `prompt`."""
    prompt = f"{request.system}\n\n{request.prompt}" if request.system else request.prompt
    texts = await orders.begin(models, limits, request.model, [prompt], request.engine_options(limits), 1)
    return await _answer(texts, request, lambda text, rest: Generated(response=text, **rest))


@router.post("/chat", response_model=Replied, responses={**ERRORS, **STREAMED})
async def chat(request: OllamaChatRequest, models: TheModels, limits: TheLimits) -> Replied | Stream:
    """The assistant's next words; the talk is written to the model as a play."""
    prompt = PLAY.prompt([Message(message.role, message.content) for message in request.messages])
    options = request.engine_options(limits, *PLAY.stops)
    texts = await orders.begin(models, limits, request.model, [prompt], options, 1)
    return await _answer(
        texts, request, lambda text, rest: Replied(message=OllamaMessage(role="assistant", content=text), **rest)
    )


async def _answer(
    texts: Texts, request: OllamaRequest, shape: Callable[[str, dict[str, Any]], Shaped]
) -> Shaped | Stream:
    if request.stream is not False:
        return Stream(texts, _lines(texts, shape), "application/x-ndjson")
    (piece,) = await texts.whole()
    return shape(piece.text, _rest(texts, piece.finish))


async def _lines(texts: Texts, shape: Callable[[str, dict[str, Any]], _Answer]) -> AsyncIterator[bytes]:
    """A line of JSON for each piece, the last one with the counts; an error is a line of its own."""
    try:
        async for pieces in texts.pieces():
            for _, piece in pieces:
                yield f"{shape(piece.text, _rest(texts, piece.finish)).model_dump_json(exclude_none=True)}\n".encode()
    except Refusal as refusal:
        yield refusal.body("/api/") + b"\n"


def _rest(texts: Texts, finish: str | None) -> dict[str, Any]:
    """All but the text."""
    rest: dict[str, Any] = {
        "model": texts.model,
        "created_at": datetime.now(UTC).isoformat(),
        "done": finish is not None,
    }
    if finish is not None:
        nanoseconds = round(texts.totals.seconds * 1e9)
        rest |= {"done_reason": finish, "total_duration": nanoseconds, "eval_duration": nanoseconds,
                 "prompt_eval_count": texts.totals.prompt_tokens, "eval_count": texts.totals.new_tokens}  # fmt: skip
    return rest
