"""A server in the shapes of `nanogpt serve` whose texts a test chooses, as slow or bad as it likes."""

import asyncio
import json
import math
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

import nanogpt.serving

PAGE = Path(nanogpt.serving.__file__).with_name("page")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LIKELY = "etaoins hr"  # what could have come instead of a character


def model(name: str, kind: str, run: str, of: str, step: int | None, **facts: object) -> dict:
    usual = {"parameters": 4_850_000, "block_size": 256, "loaded": False, "backend": None}
    about = {"path": f"/{name}", "kind": kind, "run": run, "model": of, "step": step} | usual | facts
    return {"id": name, "object": "model", "created": 0, "owned_by": "nanogpt", "nanogpt": about}


MODELS = [
    model("default/best", "export", "default", "tiny", 5000, loaded=True, backend="onnxruntime, float32, 2 threads"),
    model("default/tiny@step-100", "step", "default", "tiny", 100),
    model("default/tiny@step-5000", "step", "default", "tiny", 5000),
    model("default/tiny@step-1000", "step", "default", "tiny", 1000),
    model("default/tiny@best", "best", "default", "tiny", 4500),
    model("default/tiny@final", "final", "default", "tiny", 6000),
    model("night/best", "export", "night", "small", 20000, parameters=124_000_000, block_size=1024),
]


class ScriptedServer:
    """`texts`: what the next completions say, the last one again and again. `pace`: seconds before each token.

    `refusals`: (status, message, headers) of the next completions. `broken`: an error behind so many tokens.
    """

    def __init__(self) -> None:
        self.url = ""
        self.reset()
        self.app = FastAPI()
        self.app.middleware("http")(self.guard)
        self.app.get("/v1/models")(lambda: {"object": "list", "data": MODELS})
        self.app.get("/nanogpt/examples")(self.examples)
        self.app.post("/v1/completions")(self.complete)
        self.app.post("/nanogpt/attention")(self.attention)
        self.app.mount("/", StaticFiles(directory=PAGE, html=True))

    def reset(self) -> None:
        self.texts, self.pace, self.token, self.finish = ["Ay, my good lord."], 0.0, "", "stop"
        self.extra: dict = {}
        self.refusals: list[tuple[int, str, dict[str, str]]] = []
        self.broken: int | None = None
        self.asked: list[dict] = []
        self.left = 0  # streams whose reader went before their end

    async def guard(self, request: Request, answer) -> Response:
        asks = request.url.path.startswith(("/v1/", "/nanogpt/"))
        if self.token and asks and request.headers.get("authorization") != f"Bearer {self.token}":
            response: Response = JSONResponse({"error": {"message": "Authorization: should be `Bearer TOKEN`"}}, 401)
        else:
            response = await answer(request)
        response.headers["content-security-policy"] = POLICY
        response.headers["cache-control"] = "no-store"
        return response

    def examples(self, model: str) -> dict:
        return {
            "chat": ["What news, my lord?", "Tell me of the king."],
            "text": ["KING RICHARD:\n", "Once upon a time"],
        }

    async def complete(self, request: Request) -> Response:
        self.asked.append(await request.json())
        if self.refusals:
            status, message, headers = self.refusals.pop(0)
            return JSONResponse({"error": {"message": message, "type": "x", "code": "x"}}, status, headers)
        text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        return Counted(self, self.events(text))

    async def events(self, text: str) -> AsyncIterator[str]:
        for place, character in enumerate(text):
            if place == self.broken:
                yield event({"error": {"message": "the model computed NaN", "type": "server_error", "code": "nan"}})
                break
            await asyncio.sleep(self.pace)
            yield event({"choices": [choice(place, character)]})
        yield event({"choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": self.finish}]})
        facts = {"tokens_per_second": 1234.5, "slid": False, "unknown": None} | self.extra
        usage = {"prompt_tokens": 9, "completion_tokens": len(text)}
        yield event({"choices": [], "usage": usage, "nanogpt": facts})
        yield "data: [DONE]\n\n"

    async def attention(self, request: Request) -> dict:
        asked = await request.json()
        self.asked.append(asked)
        tokens = list(asked["text"])[-256:]
        return {
            "tokens": tokens,
            "layers": [[look(len(tokens), layer, head) for head in (1, 2, 3)] for layer in (1, 2)],
        }


class Counted(StreamingResponse):
    """Counts itself in `left` when its reader goes before the end. The events' own `finally` would not do: where the
    reader goes while a piece is being sent, it runs when Python's garbage collector comes."""

    def __init__(self, server: ScriptedServer, content: AsyncIterator[str]) -> None:
        super().__init__(self.until_the_end(content), media_type="text/event-stream")
        self._server, self._whole = server, False

    async def until_the_end(self, content: AsyncIterator[str]) -> AsyncIterator[str]:
        async for piece in content:
            yield piece
        self._whole = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._server.left += not self._whole


def choice(place: int, character: str) -> dict:
    """One character as a token, with a probability between 0.98 and 0.002 and five others."""
    probability = max(0.002, 0.98 * (1 - (ord(character) * 7 + place * 13) % 17 / 16) ** 2)
    others = [other for other in LIKELY if other != character][:5]
    shares = [max(1e-4, (1 - probability) * 0.5 ** (rank + 1)) for rank in range(5)]
    likely = {character: math.log(probability)} | dict(zip(others, map(math.log, shares), strict=True))
    logprobs = {"tokens": [character], "token_logprobs": [math.log(probability)], "top_logprobs": [likely]}
    return {"index": 0, "text": character, "finish_reason": None, "logprobs": logprobs | {"text_offset": [place]}}


def look(length: int, layer: int, head: int) -> list[float]:
    """Weights that fall with the distance, in waves."""
    raw = [
        math.exp(3 * math.sin(place * layer * 0.37 + head) - (length - place) / (8 * head)) for place in range(length)
    ]
    return [weight / sum(raw) for weight in raw]


def event(content: dict) -> str:
    return f"data: {json.dumps(content)}\n\n"


@contextmanager
def running(server: ScriptedServer) -> Iterator[ScriptedServer]:
    """In a thread, on a free port of this machine."""
    http = uvicorn.Server(uvicorn.Config(server.app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=http.run, daemon=True)
    thread.start()
    while not http.started:
        thread.join(0.02)
    server.url = f"http://127.0.0.1:{http.servers[0].sockets[0].getsockname()[1]}"
    yield server
    http.should_exit = True
    thread.join(10)
