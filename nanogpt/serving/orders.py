"""From a request to texts that are being written, within the server's limits; both APIs go through here."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from nanogpt.inference.options import Options, Piece
from nanogpt.serving.models import Models
from nanogpt.serving.refusals import bad_field
from nanogpt.serving.settings import Limits
from nanogpt.serving.worker import Begun, Ended, Event, Order, Worker, Wrote, as_one


@dataclass
class Totals:
    """What is counted over all texts of a request."""

    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0  # of the text that took longest
    slid: bool = False
    unknown: Counter[str] = field(default_factory=Counter)

    @property
    def tokens_per_second(self) -> float:
        return self.new_tokens / self.seconds if self.seconds > 0 else 0.0

    def count(self, event: Event) -> None:
        if isinstance(event, Begun):
            self.prompt_tokens += event.tokens
            self.unknown += event.unknown
        elif isinstance(event, Ended):
            self.new_tokens += event.tokens
            self.seconds = max(self.seconds, event.seconds)
            self.slid = self.slid or event.slid


@dataclass
class Texts:
    """The texts of a request while they come: `pieces()` is what is new, `totals` what is known so far."""

    model: str
    fingerprint: str
    order: Order
    worker: Worker
    totals: Totals = field(default_factory=Totals)
    _events: AsyncIterator[list[Event]] | None = None
    _first: list[Event] = field(default_factory=list)

    async def begin(self) -> None:
        """Wait for the first news: a refusal can still be an answer of its own then. Raises Refusal."""
        self._events = self.order.events()
        try:
            self._first = await anext(self._events)
        except BaseException:
            self.close()
            raise

    async def pieces(self) -> AsyncIterator[list[tuple[int, Piece]]]:
        """What each text gained since the last time, until all have ended; the texts leave the batch if nobody reads.

        Raises Refusal when one of them cannot go on.
        """
        assert self._events is not None, "begin() comes first"
        try:
            while self._first:
                for event in self._first:
                    self.totals.count(event)
                yield joined([event for event in self._first if isinstance(event, Wrote)])
                self._first = await anext(self._events, [])
        finally:
            self.close()

    async def whole(self) -> list[Piece]:
        """Each text as one piece. Raises Refusal when one of them cannot go on."""
        parts: list[list[Piece]] = [[] for _ in range(self.order.texts)]
        async for pieces in self.pieces():
            for index, piece in pieces:
                parts[index].append(piece)
        return [as_one(pieces) for pieces in parts]

    def close(self) -> None:
        """Nobody waits for the rest."""
        self.worker.cancel(self.order)


class Stream(StreamingResponse):
    """An answer in pieces. Its texts leave the batch when it ends, however it ends."""

    def __init__(self, texts: Texts, content: AsyncIterator[bytes], media_type: str):
        super().__init__(content, media_type=media_type)
        self._texts = texts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # a client may be gone before the first piece is asked for
            self._texts.close()


def joined(events: Sequence[Wrote]) -> list[tuple[int, Piece]]:
    """The pieces of each text as one piece."""
    pieces: dict[int, list[Piece]] = {}
    for event in events:
        pieces.setdefault(event.index, []).append(event.piece)
    return [(index, as_one(parts)) for index, parts in pieces.items()]


async def begin(models: Models, limits: Limits, name: str | None, prompts: Sequence[str], options: Options, copies: int
                ) -> Texts:  # fmt: skip
    """The texts of a request, whose first prompt has been read. Raises Refusal."""
    _check(limits, prompts, options, copies)
    found = models.find(name)
    loaded = models.opened(found)
    order = Order(prompts, options, copies, asyncio.get_running_loop().time() + limits.request_seconds)
    loaded.worker.submit(order)
    texts = Texts(found.id, fingerprint(loaded.version), order, loaded.worker)
    await texts.begin()
    return texts


def fingerprint(version: tuple[int, int, int]) -> str:
    """Another one means that the weights were written anew."""
    return f"fp_{hashlib.sha256(repr(version).encode()).hexdigest()[:12]}"


def bias_by_token(bias: Mapping[str, float] | None, limits: Limits) -> dict[int, float]:
    """logit_bias with its token ids as numbers. Raises Refusal."""
    if bias is not None and len(bias) > limits.biased_tokens:
        raise bad_field("logit_bias", f"names {len(bias)} tokens, at most {limits.biased_tokens} are taken")
    found: dict[int, float] = {}
    for token, value in (bias or {}).items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise bad_field("logit_bias", f"found {token[:20]!r}, should be the id of a token")
        found[int(token)] = value
    return found


def _check(limits: Limits, prompts: Sequence[str], options: Options, copies: int) -> None:
    if not 1 <= len(prompts) <= limits.prompts:
        raise bad_field("prompt", f"found {len(prompts)} prompts, should be 1 to {limits.prompts}")
    size = sum(map(len, prompts))
    if size > limits.prompt:
        raise bad_field("prompt", f"found {size:,} characters, at most {limits.prompt:,} are taken")
    if options.max_new_tokens > limits.max_tokens:
        raise bad_field("max_tokens", f"found {options.max_new_tokens:,}, at most {limits.max_tokens:,} are written")
    if copies > limits.copies:
        raise bad_field("n", f"found {copies:,}, at most {limits.copies} texts are written for a prompt")
    if len(prompts) * copies > limits.batch:
        raise bad_field("n", f"{len(prompts)} prompts × {copies} are more than the {limits.batch} texts of a batch")
    if options.json_schema is not None and (size := len(json.dumps(options.json_schema))) > limits.schema:
        raise bad_field("json_schema", f"found {size:,} bytes, at most {limits.schema:,} are taken")
    if (options.alternatives or 0) > limits.alternatives:
        raise bad_field("logprobs", f"found {options.alternatives:,}, at most {limits.alternatives} are stated")


def check_stops(stops: Sequence[str], limits: Limits) -> None:
    """Raises Refusal for stop strings of a client that are too many, too long or empty."""
    if len(stops) > limits.stops:
        raise bad_field("stop", f"found {len(stops)} strings, at most {limits.stops} are taken")
    for stop in stops:
        if not 1 <= len(stop) <= limits.stop_length:
            raise bad_field(
                "stop", f"found a string of {len(stop):,} characters, should have 1 to {limits.stop_length}"
            )
