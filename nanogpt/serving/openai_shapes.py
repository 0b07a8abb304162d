"""OpenAI's requests and answers, as far as they make sense here; what is not known is refused by name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

from nanogpt.inference.conversation import Message
from nanogpt.inference.options import Finish

Role = Literal["system", "developer", "user", "assistant"]
ANY_OBJECT: dict[str, object] = {"type": "object"}


class Shape(BaseModel):
    """Part of a request: JSON's own types, nothing converted, nothing unknown."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FirstMistake(FailFast):
    """A list is looked at up to its first mistake. A body of 1 MB holds 400,000 items: to state the mistake in each
    took 2 to 5 s, in which nobody else was answered."""

    __hash__ = object.__hash__  # FailFast has none, which unions of types need


Strings = Annotated[list[str], FirstMistake()]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class StreamOptions(Shape):
    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="ignored")


class Sampling(Shape):
    """What completions and chats have in common."""

    model: str | None = Field(None, description="an id of GET /v1/models; the first one by default")
    n: int | None = Field(None, ge=1, description="texts for each prompt")
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False, description="0: the likeliest token")
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=1, le=1 << 31, description="beyond OpenAI's")
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False, description="beyond OpenAI's")
    typical_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False, description="beyond OpenAI's")
    repetition_penalty: float | None = Field(None, gt=0, le=100, allow_inf_nan=False, description="beyond OpenAI's")
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63, description="the same one gives the same text")
    stop: str | Strings | None = None
    logit_bias: dict[str, Bias] | None = Field(None, description="by token id")
    frequency_penalty: Literal[0] | None = Field(None, description="only 0: repetition_penalty is there instead")
    presence_penalty: Literal[0] | None = Field(None, description="only 0: repetition_penalty is there instead")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="ignored")

    @property
    def copies(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether usage comes in a chunk of its own, behind the last one of text."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class CompletionRequest(Sampling):
    prompt: str | Strings = Field("", description="a text, or several; token ids are not taken")
    max_tokens: int | None = Field(None, ge=1)
    logprobs: int | None = Field(None, ge=0, description="state so many of the likeliest tokens with each")
    echo: bool | None = Field(None, description="begin the text with the prompt; not with logprobs")
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None


class TextPart(Shape):
    type: Literal["text"]
    text: str


class ChatMessage(Shape):
    role: Role
    content: str | Annotated[list[TextPart], FirstMistake()] | None = None
    name: None = None
    refusal: None = None
    audio: None = None
    tool_calls: None = None
    function_call: None = None

    @property
    def message(self) -> Message:
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return Message("system" if self.role == "developer" else self.role, text)


class TextFormat(Shape):
    type: Literal["text"]


class JsonObjectFormat(Shape):
    type: Literal["json_object"]


class NamedSchema(Shape):
    name: str = Field(description="ignored")
    description: str | None = Field(None, description="ignored")
    strict: bool | None = Field(None, description="ignored: every answer keeps to the schema")
    content: dict[str, object] = Field(ANY_OBJECT, alias="schema")


class JsonSchemaFormat(Shape):
    type: Literal["json_schema"]
    json_schema: NamedSchema


Format = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class ChatRequest(Sampling):
    messages: Annotated[list[ChatMessage], FirstMistake()] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0)
    response_format: Format | None = None
    store: Literal[False] | None = None

    @property
    def schema_of_answer(self) -> dict[str, object] | None:
        """What the answer has to be as JSON; None for any text."""
        if isinstance(self.response_format, JsonSchemaFormat):
            return self.response_format.json_schema.content
        return ANY_OBJECT if isinstance(self.response_format, JsonObjectFormat) else None


# Answers


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class UnknownCharacters(BaseModel):
    """characters: how often each one that the vocabulary lacks occurs in the prompt. share: of all its characters."""

    characters: dict[str, int]
    share: float


class Extra(BaseModel):
    """What OpenAI's API has no place for. slid: the beginning is no longer seen, the window has moved on."""

    tokens_per_second: float
    slid: bool
    unknown: UnknownCharacters | None


class CompletionLogprobs(BaseModel):
    """A list each, with an entry for each token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Finish | None = None


class _Answer(BaseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage | None = None
    nanogpt: Extra | None = None


class Completion(_Answer):
    """An answer, or a chunk of one that is streamed."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]


class TokenAlternative(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TokenAlternative):
    top_logprobs: list[TokenAlternative]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class Reply(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: Reply
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish


class Chat(_Answer):
    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None


class ChatChunk(_Answer):
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]


class ModelFacts(BaseModel):
    """What the page shows of a model."""

    path: str
    kind: Literal["export", "best", "final", "step"]
    run: str
    model: str
    step: int | None
    parameters: int | None
    block_size: int | None
    loaded: bool
    backend: str | None


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["nanogpt"] = "nanogpt"
    nanogpt: ModelFacts


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Problem(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    error: Problem
