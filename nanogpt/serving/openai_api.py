"""OpenAI's API: /v1/completions, /v1/chat/completions and /v1/models."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypedDict

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel

from nanogpt.inference.conversation import Play
from nanogpt.inference.options import LARGEST_SEED, Alternative, Options, Piece, Token
from nanogpt.serving import orders
from nanogpt.serving.found_models import as_text
from nanogpt.serving.models import Models, Offered
from nanogpt.serving.openai_shapes import (
    Chat,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatLogprobs,
    ChatRequest,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    Delta,
    ErrorAnswer,
    Extra,
    Model,
    ModelFacts,
    ModelList,
    Reply,
    Sampling,
    TokenAlternative,
    TokenLogprob,
    UnknownCharacters,
    Usage,
)
from nanogpt.serving.orders import Texts, Totals
from nanogpt.serving.refusals import Refusal, bad_field
from nanogpt.serving.settings import Limits

SMALLEST_LOGPROB = -9999.0  # OpenAI's word for minus infinity, which JSON does not have
Responses = dict[int | str, dict[str, Any]]  # FastAPI's own type
ERRORS: Responses = {"4XX": {"model": ErrorAnswer}, "5XX": {"model": ErrorAnswer}}
STREAMED: Responses = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
PLAY = Play()

router = APIRouter(prefix="/v1")


async def models_of(request: Request) -> Models:  # async: the others run in a thread each, 0.2 ms a request
    models: Models = request.app.state.models
    return models


async def limits_of(request: Request) -> Limits:
    limits: Limits = request.app.state.settings.limits
    return limits


TheModels = Annotated[Models, Depends(models_of)]
TheLimits = Annotated[Limits, Depends(limits_of)]


# Models


@router.get("/models", responses=ERRORS)
async def list_models(models: TheModels) -> ModelList:
    """What is on disk now, loaded or not."""
    return ModelList(data=[_model(offered) for offered in models.offered()])


@router.get("/models/{model:path}", responses=ERRORS)
async def one_model(model: str, models: TheModels) -> Model:
    return _model(models.offer(model))


def _model(offered: Offered) -> Model:
    found = offered.found
    facts = ModelFacts(
        path=as_text(found.path),
        kind=found.kind,
        run=found.run,
        model=found.model,
        step=found.step,
        parameters=found.parameters,
        block_size=found.block_size,
        loaded=offered.loaded,
        backend=offered.backend,
    )
    return Model(id=found.id, created=found.changed, nanogpt=facts)


# Completions


@router.post("/completions", response_model=Completion, responses={**ERRORS, **STREAMED})
async def complete(request: CompletionRequest, models: TheModels, limits: TheLimits) -> Completion | StreamingResponse:
    """The text that follows each prompt; with `stream`, in pieces as server-sent events."""
    if request.echo and request.logprobs is not None:
        raise bad_field("echo", "cannot be combined with logprobs: the prompt's probabilities are not computed")
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    orders.check_stops(request.stops, limits)
    options = _options(request, limits, request.max_tokens, request.logprobs, request.stops)
    texts = await orders.begin(models, limits, request.model, prompts, options, request.copies)
    shape = CompletionWriter(texts, prompts if request.echo else [])
    return _stream(shape, request) if request.stream else await shape.whole()


class Envelope(TypedDict):
    """What each answer and each chunk of one carries around its choices."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage | None
    nanogpt: Extra | None


class Writer:
    """An answer as it comes."""

    def __init__(self, texts: Texts, prefix: str):
        self.texts = texts
        self.id, self.created = f"{prefix}-{uuid.uuid4().hex}", int(time.time())
        self._opening = b""  # of a chunk in JSON, up to its choices

    def envelope(self, *, ended: bool) -> Envelope:
        texts = self.texts
        return Envelope(
            id=self.id,
            created=self.created,
            model=texts.model,
            system_fingerprint=texts.fingerprint,
            usage=_usage(texts.totals) if ended else None,
            nanogpt=_extra(texts) if ended else None,
        )

    def chunk(self, pieces: Sequence[tuple[int, Piece]], *, ended: bool) -> BaseModel:
        """The chunk that brings these pieces of the texts; `choices` is the last of its fields."""
        raise NotImplementedError

    def choice(self, index: int, piece: Piece) -> BaseModel:
        raise NotImplementedError

    def encoded(self, pieces: Sequence[tuple[int, Piece]]) -> bytes:
        """chunk(pieces, ended=False) in JSON. What is the same in every one is written once: half of the time."""
        self._opening = self._opening or self.chunk([], ended=False).model_dump_json().encode().removesuffix(b"]}")
        choices = ",".join([self.choice(index, piece).model_dump_json() for index, piece in pieces])
        return self._opening + choices.encode() + b"]}"


class CompletionWriter(Writer):
    """A completion as it comes: whole, or in chunks."""

    def __init__(self, texts: Texts, echoed: Sequence[str]):
        super().__init__(texts, "cmpl")
        copies = texts.order.copies
        self._echoed = {index: echoed[index // copies] for index in range(texts.order.texts) if echoed}
        self._offsets: dict[int, int] = {}  # of the next token, in each text

    async def whole(self) -> Completion:
        return self.chunk(list(enumerate(await self.texts.whole())), ended=True)

    def chunk(self, pieces: Sequence[tuple[int, Piece]], *, ended: bool) -> Completion:
        return Completion(choices=[self.choice(*piece) for piece in pieces], **self.envelope(ended=ended))

    def choice(self, index: int, piece: Piece) -> CompletionChoice:
        text = self._echoed.pop(index, "") + piece.text
        return CompletionChoice(
            index=index, text=text, logprobs=self._logprobs(index, piece.tokens), finish_reason=piece.finish
        )

    def _logprobs(self, index: int, tokens: Sequence[Token]) -> CompletionLogprobs | None:
        if self.texts.order.options.alternatives is None:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token.text)
        return CompletionLogprobs(
            tokens=[token.text for token in tokens],
            token_logprobs=[_finite(token.logprob) for token in tokens],
            top_logprobs=[{other.text: _finite(other.logprob) for other in token.alternatives} for token in tokens],
            text_offset=offsets,
        )


# Chats


@router.post("/chat/completions", response_model=Chat, responses={**ERRORS, **STREAMED})
async def chat(request: ChatRequest, models: TheModels, limits: TheLimits) -> Chat | StreamingResponse:
    """The assistant's next words. The models continue text, so the talk is written to them as a play."""
    if request.top_logprobs is not None and not request.logprobs:
        raise bad_field("top_logprobs", "needs logprobs: true")
    alternatives = (request.top_logprobs or 0) if request.logprobs else None
    orders.check_stops(request.stops, limits)
    most = request.max_completion_tokens if request.max_tokens is None else request.max_tokens
    options = _options(request, limits, most, alternatives, (*request.stops, *PLAY.stops))
    options = replace(options, json_schema=request.schema_of_answer)
    prompt = PLAY.prompt([message.message for message in request.messages])
    texts = await orders.begin(models, limits, request.model, [prompt], options, request.copies)
    shape = ChatWriter(texts)
    return _stream(shape, request) if request.stream else await shape.whole()


class ChatWriter(Writer):
    """A reply as it comes: whole, or in chunks."""

    def __init__(self, texts: Texts):
        super().__init__(texts, "chatcmpl")
        self._silent = set(range(texts.order.texts))  # texts whose role has not been sent

    async def whole(self) -> Chat:
        choices = [
            ChatChoice(
                index=index,
                message=Reply(content=piece.text),
                logprobs=self._logprobs(piece.tokens),
                finish_reason=piece.finish or "stop",
            )
            for index, piece in enumerate(await self.texts.whole())
        ]
        return Chat(choices=choices, **self.envelope(ended=True))

    def chunk(self, pieces: Sequence[tuple[int, Piece]], *, ended: bool) -> ChatChunk:
        return ChatChunk(choices=[self.choice(*piece) for piece in pieces], **self.envelope(ended=ended))

    def choice(self, index: int, piece: Piece) -> ChatChunkChoice:
        is_first = index in self._silent
        self._silent.discard(index)
        return ChatChunkChoice(
            index=index,
            delta=Delta(role="assistant" if is_first else None, content=piece.text),
            logprobs=self._logprobs(piece.tokens),
            finish_reason=piece.finish,
        )

    def _logprobs(self, tokens: Sequence[Token]) -> ChatLogprobs | None:
        if self.texts.order.options.alternatives is None:
            return None
        return ChatLogprobs(
            content=[
                TokenLogprob(**_alternative(token).model_dump(), top_logprobs=[*map(_alternative, token.alternatives)])
                for token in tokens
            ]
        )


# What both have in common


def _options(
    request: Sampling, limits: Limits, max_tokens: int | None, alternatives: int | None, stops: Sequence[str]
) -> Options:
    """The engine's options; what a request leaves out is as in the engine."""
    usual = Options()
    return Options(
        max_new_tokens=limits.default_tokens if max_tokens is None else max_tokens,
        temperature=usual.temperature if request.temperature is None else request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        min_p=request.min_p,
        typical_p=request.typical_p,
        repetition_penalty=usual.repetition_penalty
        if request.repetition_penalty is None
        else request.repetition_penalty,
        logit_bias=orders.bias_by_token(request.logit_bias, limits),
        stop=tuple(stops),
        seed=None if request.seed is None else request.seed % (LARGEST_SEED + 1),
        alternatives=alternatives,
    )


def _stream(writer: Writer, request: Sampling) -> orders.Stream:
    return orders.Stream(writer.texts, _events(writer, request.wants_usage), "text/event-stream")


async def _events(writer: Writer, usage_alone: bool) -> AsyncIterator[bytes]:
    """Server-sent events: chunks, the last with usage, then [DONE]. An error in the middle is an event of its own."""
    texts = writer.texts
    left = texts.order.texts
    try:
        async for pieces in texts.pieces():
            left -= sum(piece.finish is not None for _, piece in pieces)
            if pieces and (left or usage_alone):
                yield b"data: %b\n\n" % writer.encoded(pieces)
            elif pieces:
                yield _event(writer.chunk(pieces, ended=True))
        if usage_alone:
            yield _event(writer.chunk([], ended=True))
    except Refusal as refusal:
        yield format_sse_event(data_str=refusal.body("").decode("ascii"))
    yield format_sse_event(data_str="[DONE]")


def _event(chunk: BaseModel) -> bytes:
    return format_sse_event(data_str=chunk.model_dump_json(exclude_none=False))


def _usage(totals: Totals) -> Usage:
    total = totals.prompt_tokens + totals.new_tokens
    return Usage(prompt_tokens=totals.prompt_tokens, completion_tokens=totals.new_tokens, total_tokens=total)


def _extra(texts: Texts) -> Extra:
    totals = texts.totals
    unknown = None
    if totals.unknown:
        share = totals.unknown.total() / sum(map(len, texts.order.prompts))
        unknown = UnknownCharacters(characters=dict(totals.unknown.most_common(20)), share=share)
    return Extra(tokens_per_second=totals.tokens_per_second, slid=totals.slid, unknown=unknown)


def _alternative(token: Token | Alternative) -> TokenAlternative:
    return TokenAlternative(
        token=token.text, logprob=_finite(token.logprob), bytes=list(token.text.encode("utf-8", errors="replace"))
    )


def _finite(logprob: float) -> float:
    return max(SMALLEST_LOGPROB, logprob)
