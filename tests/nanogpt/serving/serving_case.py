"""A server on loopback in a thread, over a model that is a table: no torch, and as quick or slow as a test wants."""

import asyncio
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np

from nanogpt.config import ModelConfig
from nanogpt.inference.engine import Engine
from nanogpt.serving.server import Server, bind
from nanogpt.serving.settings import Limits, Settings
from nanogpt.tokenizers.characters import CharTokenizer

LETTERS = CharTokenizer("abcdefghij :\nROMEJULIT")
SECONDS = 20  # for anything that a test waits for


class TableCache:
    def __init__(self):
        self.lengths = []

    def select(self, rows):
        self.lengths = [self.lengths[row] for row in rows]

    def join(self, other):
        self.lengths += other.lengths

    def cut(self, lengths):
        self.lengths = list(lengths)


class TableDecoder:
    """What follows a token is drawn from its row of a fixed table. `seconds`: what a step takes."""

    name, description = "torch", "a table"

    def __init__(self, seconds: float = 0.0, nan_after: int | None = None):
        self.config = ModelConfig(
            preset="modern", n_layer=1, n_head=1, n_embd=8, block_size=64, vocab_size=LETTERS.vocab_size
        )
        self.table = np.random.default_rng(0).normal(size=(LETTERS.vocab_size,) * 2).astype(np.float32)
        if nan_after is not None:
            self.table[nan_after] = np.nan
        self.seconds = seconds
        self.steps = 0
        self.rows = []  # of each step

    def new_cache(self):
        return TableCache()

    def prefill(self, prompts, cache, *, every=False):
        cache.lengths += [len(prompt) for prompt in prompts]
        return self._logits([prompt[-1] for prompt in prompts])

    def step(self, tokens, cache):
        cache.lengths = [length + 1 for length in cache.lengths]
        self.steps += 1
        self.rows.append(len(tokens))
        time.sleep(self.seconds)
        return self._logits(tokens)

    def _logits(self, tokens):
        return self.table[np.asarray(tokens, dtype=np.int64)]


def table_engine(seconds: float = 0.0, nan_after: int | None = None) -> Engine:
    return Engine(TableDecoder(seconds, nan_after), LETTERS)


def make_export(folder: Path) -> Path:
    """What looks like an export from outside; a test's own `opening` makes its engine."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"max_position_embeddings": 64}')
    (folder / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    return folder


def make_real_export(folder: Path) -> Path:
    """A small random model of the same alphabet."""
    from nanogpt.export import huggingface  # torch, which most tests of the server do without
    from nanogpt.model.gpt import GPT

    shape = dict(n_layer=2, n_head=2, n_embd=32, block_size=32, vocab_size=LETTERS.vocab_size)
    huggingface.export(GPT(ModelConfig(preset="modern", **shape)), LETTERS, folder)
    return folder


class Running:
    """A server that is up. `decoder`: of the first model."""

    def __init__(self, server: Server, url: str, notes: list[str], engines: dict[str, Engine], loop):
        self.server, self.url, self.notes, self.engines, self.loop = server, url, notes, engines, loop
        self.client = httpx.Client(base_url=url, timeout=SECONDS)

    def post(self, path: str, body: dict, **options) -> httpx.Response:
        return self.client.post(path, json=body, **options)

    def until(self, condition) -> None:
        """Wait until condition() holds."""
        end = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.005)

    def figure(self, name: str) -> float:
        """A figure of /metrics, summed over its labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition(" ")[0].partition("{")[0] == name)


@contextmanager
def serving(*paths: Path, opening=None, seconds: float = 0.0, limits: Limits | None = None, port: int = 0, **settings):
    """A Running server over `paths`; by default each model is a table whose steps take `seconds`."""
    engines: dict[str, Engine] = {}

    def open_table(found, settings, notify):
        engines[found.model] = table_engine(seconds)
        return engines[found.model]

    notes: list[str] = []
    listening = bind("127.0.0.1", port)
    limits = replace(limits or Limits(), drain_seconds=1.0)
    server = Server(Settings(paths=tuple(paths), limits=limits, **settings), notes.append, opening or open_table)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve([listening])), daemon=True)
    thread.start()
    running = Running(server, "http://{}:{}".format(*listening.getsockname()), notes, engines, loop)
    try:
        running.until(lambda: server.started)
        yield running
    finally:
        running.client.close()
        server.should_exit = True
        thread.join(SECONDS)
        listening.close()
        assert not thread.is_alive()
        loop.close()


@contextmanager
def streaming(server):
    """A text that is being written; its answer is open inside the block, and hung up behind it."""
    with httpx.Client(base_url=server.url, timeout=SECONDS) as client:
        body = {"prompt": "abc", "max_tokens": 4_000, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            assert "choices" in next(lines)
            yield lines
