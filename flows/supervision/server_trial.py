"""A model is served as a person would serve it, and talked to as a program would: a real process, a real port, HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import requests

from flows.context.paths import CHECKOUT

SECONDS_TO_START, SECONDS_TO_ANSWER, SECONDS_TO_END = 60.0, 120.0, 40.0
BETWEEN_LOOKS = 0.05
HOST = "127.0.0.1"
QUESTION = "Who are you?"
TOKENS = 200
SEED = 1
LAST_WORDS = 300  # characters of the server's log, in an error


@dataclass(frozen=True)
class Talk:
    """What the server said, and how fast. The figures are the client's: HTTP and JSON are part of them."""

    seconds_to_start: float  # until it answered that it is well
    seconds_to_first_token: float
    tokens_per_second: float  # of a whole completion, from the request on: several tokens may come in one piece
    tokens: int
    prompt: str
    completion: str
    question: str
    reply: str
    seconds_to_end: float  # after SIGTERM
    backend: str  # what computed


def serve_and_talk(model: Path, prompt: str, log: Path) -> Talk:
    """Serve `model` on a free port, ask for a completion and a chat answer, stop the server with SIGTERM.

    Raises RuntimeError when it does not start, refuses a request, says nothing or does not end well; the server's own
    words are in `log`.
    """
    port = _free_port()
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as words, _started(model, port, words) as process:
        try:
            _wait_until_well(process, port)
            started = time.monotonic() - began
            _ask(port, "completions", {"prompt": prompt, "max_tokens": 1}).close()  # waits for the model to be loaded
            stream = _timed_completion(port, prompt)
            reply = _reply(port)
            backend = _backend(port)
            ended = _end(process)
        except (requests.RequestException, RuntimeError, LookupError, ValueError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(f"nanogpt serve: {error}; its last words: {_last_words(log)}") from error
    return Talk(
        seconds_to_start=round(started, 2),
        seconds_to_first_token=round(stream.seconds_to_first, 4),
        tokens_per_second=round(stream.tokens / stream.seconds, 1),
        tokens=stream.tokens,
        prompt=prompt,
        completion=stream.text,
        question=QUESTION,
        reply=reply,
        seconds_to_end=round(ended, 2),
        backend=backend,
    )


@contextmanager
def _started(model: Path, port: int, log: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process, in a group of its own; none of it is left at the end."""
    process = subprocess.Popen(
        _command(model, port),
        cwd=CHECKOUT,
        env={**_own_environment(), "PYTHONPATH": str(CHECKOUT), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is this process's to handle, which then ends the server
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


# A run that is killed leaves no server: it ends when process number argv[1], which started it, is gone.
SERVE = """
import sys
from nanogpt.training.stopping import end_with
end_with(int(sys.argv.pop(1)))
from nanogpt.cli import main
sys.exit(main())
"""


def _command(model: Path, port: int) -> list[str]:
    parent = str(os.getpid())
    return [sys.executable, "-c", SERVE, parent, "serve", str(model), "--host", HOST, "--port", str(port)]


def _own_environment() -> dict[str, str]:
    """Without a token that a person set for servers of their own."""
    return {name: value for name, value in os.environ.items() if name != "NANOGPT_TOKEN"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _session() -> requests.Session:
    """A proxy, or a password, of the environment is not for this machine's own loopback."""
    session = requests.Session()
    session.trust_env = False
    return session


def _wait_until_well(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    with _session() as session:
        while time.monotonic() < deadline:
            if (code := process.poll()) is not None:
                raise RuntimeError(f"ended with code {code} before it answered")
            try:
                if session.get(f"http://{HOST}:{port}/health", timeout=SECONDS_TO_ANSWER).ok:
                    return
            except requests.ConnectionError:
                time.sleep(BETWEEN_LOOKS)
    raise RuntimeError(f"no answer within {SECONDS_TO_START:.0f} s")


def _ask(port: int, path: str, body: Mapping[str, Any]) -> requests.Response:
    """The answer to a POST, its body not read yet. Raises RuntimeError for a refusal."""
    with _session() as session:
        answer = session.post(
            f"http://{HOST}:{port}/v1/{path}", json={**body, "seed": SEED}, stream=True, timeout=SECONDS_TO_ANSWER
        )
    if not answer.ok:
        raise RuntimeError(f"/v1/{path} answered {answer.status_code}: {answer.text[:LAST_WORDS]}")
    return answer


@dataclass(frozen=True)
class _Stream:
    """A completion as it came; seconds since it was asked for."""

    text: str
    tokens: int
    seconds_to_first: float
    seconds: float


def _timed_completion(port: int, prompt: str) -> _Stream:
    began, first, text, tokens = time.monotonic(), 0.0, "", 0
    body = {"prompt": prompt, "max_tokens": TOKENS, "stream": True, "stream_options": {"include_usage": True}}
    with _ask(port, "completions", body) as answer:
        for chunk in _events(answer):
            text += "".join(choice["text"] for choice in chunk["choices"])
            first = first or (time.monotonic() - began if text else 0.0)
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
    if not text or not tokens:
        raise RuntimeError("the completion is empty")
    return _Stream(text, tokens, first, time.monotonic() - began)


def _events(answer: requests.Response) -> Iterator[dict[str, Any]]:
    """The chunks of a stream of server-sent events. Raises RuntimeError for an error in it, or no proper end."""
    for line in answer.iter_lines(chunk_size=1):
        data = line.removeprefix(b"data: ") if line.startswith(b"data: ") else b""
        if data == b"[DONE]":
            return
        if data:
            chunk: dict[str, Any] = json.loads(data)
            if "error" in chunk:
                raise RuntimeError(f"an error in the middle of a completion: {chunk['error']}")
            yield chunk
    raise RuntimeError("the stream of a completion broke off")


def _reply(port: int) -> str:
    """What it says to a question; nothing, where a young model ends its part at once."""
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": TOKENS}
    with _ask(port, "chat/completions", body) as answer:
        return str(answer.json()["choices"][0]["message"]["content"] or "")


def _backend(port: int) -> str:
    """What computes the model that is served, in words."""
    with _session() as session:
        models = session.get(f"http://{HOST}:{port}/v1/models", timeout=SECONDS_TO_ANSWER).json()["data"]
    return str(models[0]["nanogpt"]["backend"] or "")


def _end(process: subprocess.Popen[bytes]) -> float:
    """Stop the server as a service manager does; the seconds that it took. Raises RuntimeError unless its code is 0."""
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    if code := process.wait(SECONDS_TO_END):
        raise RuntimeError(f"ended with code {code} after SIGTERM")
    return time.monotonic() - asked


def _last_words(log: Path) -> str:
    return " ".join(log.read_text(encoding="utf-8", errors="replace").split())[-LAST_WORDS:] or "none"
