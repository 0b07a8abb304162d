"""A server that answers in the shapes of `nanogpt serve`, with texts that a test chooses, as slowly or badly as it likes."""

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

import nanogpt.serving

PAGE = Path(nanogpt.serving.__file__).with_name("page")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ALPHABET = "etaoins hr"


def model(name: str, kind: str, run: str, of: str, step: int | None = None, **facts: object) -> dict:
    shown = dict(path=f"/{name}", kind=kind, run=run, model=of, step=step, parameters=4_850_000, block_size=256)
    return {"id": name, "object": "model", "created": 0, "owned_by": "nanogpt",
            "nanogpt": shown | {"loaded": True, "backend": "onnxruntime, float32, 2 threads"} | facts}  # fmt: skip


MODELS = [
    model("default/best", "export", "default", "tiny", 5000),
    model("default/tiny@step-100", "step", "default", "tiny", 100, loaded=False, backend=None),
    model("default/tiny@step-5000", "step", "default", "tiny", 5000, loaded=False, backend=None),
    model("default/tiny@step-1000", "step", "default", "tiny", 1000, loaded=False, backend=None),
    model("default/tiny@best", "best", "default", "tiny", 4500, loaded=False, backend=None),
    model("default/tiny@final", "final", "default", "tiny", 5000, loaded=False, backend=None),
    model("night/best", "export", "night", "small", 20000, parameters=124_000_000, block_size=1024, loaded=False),
]


class ScriptedServer:
    """`texts`: what the next completions say, the last one again and again. `pace`: seconds between two tokens."""

    def __init__(self) -> None:
        self.reset()
        self.url = ""
        self.app = FastAPI()
        self.app.middleware("http")(self.guard)
        self.app.get("/v1/models")(lambda: {"object": "list", "data": self.models})
        self.app.get("/nanogpt/examples")(self.examples)
        self.app.post("/v1/completions")(self.complete)
        self.app.post("/nanogpt/attention")(self.attention)
        self.app.mount("/", StaticFiles(directory=PAGE, html=True))

    def reset(self) -> None:
        self.models, self.texts, self.pace, self.token = list(MODELS), ["Ay, my good lord."], 0.0, None
        self.finish, self.extra, self.refusals = "stop", {}, []
        self.asked: list[dict] = []
        self.left = 0  # streams whose reader went before their end

    async def guard(self, request: Request, answer) -> Response:
        asks = request.url.path.startswith(("/v1/", "/nanogpt/"))
        if self.token and asks and request.headers.get("authorization") != f"Bearer {self.token}":
            response: Response = JSONResponse({"error": {"message": "Authorization: should be `Bearer TOKEN`"}}, 401)
        else:
            response = await answer(request)
        response.headers["content-security-policy"] = POLICY
        return response

    def examples(self, model: str) -> dict:
        return {"chat": ["What news, my lord?", "Speak, what is thy name?", "Tell me of the king."],
                "text": ["KING RICHARD:\n", "Once upon a time", "To be, or not to be"]}  # fmt: skip

    async def complete(self, request: Request) -> Response:
        asked = await request.json()
        self.asked.append(asked)
        if self.refusals:
            status, message, headers = self.refusals.pop(0)
            return JSONResponse({"error": {"message": message, "type": "x", "code": "x"}}, status, headers)
        text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        return StreamingResponse(self.events(text), media_type="text/event-stream")

    async def events(self, text: str) -> AsyncIterator[str]:
        whole = False
        try:
            for place, character in enumerate(text):
                if self.pace:
                    await asyncio.sleep(self.pace)
                yield event({"choices": [self.choice(place, character)]})
            yield event({"choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": self.finish}]})
            yield event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": len(text)},
                         "nanogpt": {"tokens_per_second": 1234.5, "slid": False, "unknown": None} | self.extra})  # fmt: skip
            yield "data: [DONE]\n\n"
            whole = True
        finally:
            self.left += not whole

    def choice(self, place: int, character: str) -> dict:
        surprise = (ord(character) * 7 + place * 13) % 17 / 16
        probability = max(0.002, 0.98 * (1 - surprise) ** 2)
        likely = {character: math.log(probability)}
        for rank, other in enumerate(other for other in ALPHABET if other != character):
            likely[other] = math.log(max(1e-4, (1 - probability) * 0.5 ** (rank + 1)))
        likely = dict(list(likely.items())[:6])
        return {"index": 0, "text": character, "finish_reason": None,
                "logprobs": {"tokens": [character], "token_logprobs": [likely[character]], "top_logprobs": [likely],
                             "text_offset": [place]}}  # fmt: skip

    async def attention(self, request: Request) -> dict:
        asked = await request.json()
        self.asked.append(asked)
        tokens = list(asked["text"])[-256:]
        layers = []
        for layer in range(4):
            heads = []
            for head in range(4):
                raw = [math.exp(3 * math.sin((place + 1) * (layer + 1) * 0.37 + head) - (len(tokens) - place) / (8 * (head + 1)))
                       for place in range(len(tokens))]  # fmt: skip
                heads.append([weight / sum(raw) for weight in raw])
            layers.append(heads)
        return {"tokens": tokens, "layers": layers}


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
