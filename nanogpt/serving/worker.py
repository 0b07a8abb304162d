"""One thread for each loaded model: it alone owns the batch, which requests join and leave at any step."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from nanogpt.inference.batch import Batch, Writing
from nanogpt.inference.engine import Engine
from nanogpt.inference.options import Options, Piece
from nanogpt.serving.metrics import Metrics
from nanogpt.serving.refusals import Refusal, refusal_of

LONGEST_WAIT = 60  # seconds that a client is asked to wait before it tries again
# Seconds between two hand-overs to the event loop: at least, for each request that is being answered, and at most. A
# piece costs the loop 80 us (JSON, HTTP, system call), as much as a token of a small model, and while it has the
# interpreter the model waits: about 5 % of a core this way. Begun and ended texts are handed over at once.
PACE, PACE_OF_A_REQUEST, LONGEST_PACE = 0.005, 0.0015, 0.05

State = Literal["loading", "ready", "failed", "stopped"]


@dataclass(frozen=True)
class Begun:
    """A prompt was read. unknown: how often each character outside the vocabulary occurs in it."""

    prompt: int
    tokens: int
    unknown: Counter[str]


@dataclass(frozen=True)
class Wrote:
    """What text number `index` has gained; texts of one prompt follow each other."""

    index: int
    piece: Piece


@dataclass(frozen=True)
class Ended:
    """Text number `index` is complete. slid: its beginning is no longer seen, the window has moved on."""

    index: int
    tokens: int
    slid: bool
    seconds: float


Event = Begun | Wrote | Ended


@dataclass(eq=False)
class Order:
    """The texts of one request: `copies` of each prompt. Made and read in the event loop.

    deadline: of the loop's clock.
    """

    prompts: Sequence[str]
    options: Options
    copies: int
    deadline: float
    arrived: float = field(default_factory=time.perf_counter)
    cancelled: bool = False  # set in the event loop, read by the worker
    _events: list[Event] = field(default_factory=list)
    _error: BaseException | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def texts(self) -> int:
        return len(self.prompts) * self.copies

    def put(self, events: Sequence[Event], error: BaseException | None) -> None:
        """What the worker has for it; called in the event loop."""
        self._events += events
        self._error = self._error or error
        self._news.set()

    async def events(self) -> AsyncIterator[list[Event]]:
        """All that has happened since the last time, until each text has ended. Raises Refusal."""
        open_texts = self.texts
        too_long = Refusal(504, "the text took longer than this server allows", "timeout")
        alarm = asyncio.get_running_loop().call_at(self.deadline, self.put, (), too_long)
        try:
            while open_texts:
                await self._news.wait()
                self._news.clear()
                events, self._events = self._events, []
                if events:
                    yield events
                if self._error is not None:
                    raise refusal_of(self._error) from self._error
                open_texts -= sum(isinstance(event, Ended) for event in events)
        finally:
            alarm.cancel()


@dataclass
class _News:
    """What has not been handed over to an order yet."""

    events: list[Event] = field(default_factory=list)
    error: BaseException | None = None


@dataclass(eq=False)
class _Text:
    """A text in the batch; `pieces` have not been handed over yet."""

    order: Order
    index: int
    writing: Writing
    begun: float
    has_first: bool = False
    pieces: list[Piece] = field(default_factory=list)


class Worker:
    """A model, loaded in its own thread; the methods are for the event loop.

    `open_engine` runs in that thread. `on_state` is called in the event loop whenever `state` has changed.
    """

    def __init__(
        self,
        model: str,
        open_engine: Callable[[], Engine],
        batch_limit: int,
        queue_limit: int,
        metrics: Metrics,
        on_state: Callable[[Worker], None] = lambda _: None,
    ):
        self.model = model
        self.state: State = "loading"
        self.error: BaseException | None = None
        self.engine: Engine | None = None
        self._open, self._on_state, self._metrics = open_engine, on_state, metrics.of(model)
        self._batch_limit, self._queue_limit = batch_limit, queue_limit
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Order] = deque()
        self._admitted: list[Order] = []  # whose prompts are being read
        self._texts: dict[Writing, _Text] = {}
        self._news: dict[Order, _News] = {}
        self._handed_over = 0.0
        self._seconds = 1.0  # what a text took lately
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"model {model}", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        with self._changed:
            return not (self._waiting or self._admitted or self._texts) and self.state != "loading"

    def submit(self, order: Order) -> None:
        """Let `order` wait for its places in the batch. Raises Refusal 429 when too many wait already."""
        with self._changed:
            if self.state in ("failed", "stopped"):
                raise self._unusable(self.error or RuntimeError("it was unloaded"))
            if len(self._waiting) >= self._queue_limit:
                wait = math.ceil(self._seconds * (1 + len(self._waiting) / self._batch_limit))
                raise Refusal(
                    429,
                    f"{len(self._waiting)} requests wait for {self.model} already; try again later",
                    "queue_full",
                    retry_after=min(LONGEST_WAIT, wait),
                )
            self._waiting.append(order)
            self._changed.notify()

    def cancel(self, order: Order) -> None:
        """Nobody reads `order` any more: its texts leave the batch before the next step."""
        with self._changed:
            order.cancelled = True
            if order in self._waiting:  # behind others it would take a place in the queue until their turn has come
                self._waiting.remove(order)
            self._changed.notify()

    def stop(self) -> None:
        """End the thread and free the model. What is still written fails with Refusal 503."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, seconds: float) -> bool:
        """Wait for the thread; whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # From here on: the thread

    def _run(self) -> None:
        try:
            self.engine = self._open()
            self._set_state("ready")
            self._serve(self.engine)
        except BaseException as error:  # whatever it is, those who wait must hear of it
            self._end("failed", error)
        else:
            self._end("stopped", Refusal(503, "the model is being unloaded; try again", "unloaded", retry_after=1))

    def _serve(self, engine: Engine) -> None:
        batch = Batch(engine)
        while True:
            with self._changed:
                while not (self._waiting or self._texts or self._stopping):
                    self._changed.wait()
                if self._stopping:
                    return
                self._admitted = self._next_orders()
            self._drop_cancelled(batch)
            for order in self._admitted:
                self._begin(order, batch, engine)
            self._admitted = []
            if self._texts:
                try:
                    self._step(batch)
                except Exception as error:  # out of memory, a fault of a backend: these texts end, the model goes on
                    self._fail_texts(error)
                    batch = Batch(engine)
            self._metrics.batch_size.set(len(self._texts))
            self._hand_over()

    def _next_orders(self) -> list[Order]:
        """Orders for which the batch has places now, first come, first served."""
        admitted = []
        free = self._batch_limit - len(self._texts)
        while self._waiting and self._waiting[0].texts <= free:
            admitted.append(self._waiting.popleft())
            free -= admitted[-1].texts
        self._metrics.queue.set(len(self._waiting))
        return admitted

    def _begin(self, order: Order, batch: Batch, engine: Engine) -> None:
        """Read the prompts of `order`; a mistake in one of them ends the whole of it."""
        for number, prompt in enumerate(order.prompts):
            try:
                writings = batch.add(prompt, order.options, order.copies)
            except Exception as error:
                self._tell(order, error=error)
                self._drop(batch, order)
                return
            now = time.perf_counter()
            self._tell(order, Begun(number, writings[0].prompt_tokens, engine.tokenizer.unknown_in(prompt)))
            self._metrics.prompt_tokens.inc(writings[0].prompt_tokens)
            for copy, writing in enumerate(writings):
                self._texts[writing] = _Text(order, number * order.copies + copy, writing, now)

    def _step(self, batch: Batch) -> None:
        """One more token of every text."""
        pieces = batch.step()
        self._metrics.steps.inc()
        self._metrics.tokens.inc(len(self._texts))
        ended = []
        for writing, piece in pieces:
            text = self._texts.get(writing)
            if text is None:
                continue
            if piece.text or piece.tokens or piece.finish:
                if not text.has_first:
                    text.has_first = True
                    self._metrics.first_token.observe(time.perf_counter() - text.order.arrived)
                text.pieces.append(piece)
            if writing.ended:
                ended.append(text)
        for text in ended:
            if text.writing in self._texts:  # not dropped with another one of its order
                self._finish(text)
                if text.writing.error is not None:
                    self._drop(batch, text.order)

    def _finish(self, text: _Text) -> None:
        writing, seconds = text.writing, time.perf_counter() - text.begun
        self._tell_pieces(text)
        del self._texts[writing]
        if writing.error is not None:
            self._tell(text.order, error=writing.error)
            return
        self._seconds = 0.9 * self._seconds + 0.1 * seconds
        self._tell(text.order, Ended(text.index, writing.new_tokens, writing.slid, seconds))

    def _drop_cancelled(self, batch: Batch) -> None:
        for order in {text.order for text in self._texts.values() if text.order.cancelled}:
            self._drop(batch, order)

    def _drop(self, batch: Batch, order: Order) -> None:
        """All texts of `order` leave the batch."""
        for text in [text for text in self._texts.values() if text.order is order]:
            batch.drop(text.writing)
            del self._texts[text.writing]

    def _fail_texts(self, error: BaseException) -> None:
        for text in self._texts.values():
            self._tell_pieces(text)
            self._tell(text.order, error=error)
        self._texts.clear()

    def _tell(self, order: Order, event: Event | None = None, error: BaseException | None = None) -> None:
        news = self._news.get(order)
        if news is None:
            news = self._news[order] = _News()
        if event is not None:
            news.events.append(event)
        news.error = news.error or error

    def _tell_pieces(self, text: _Text) -> None:
        if text.pieces:
            self._tell(text.order, Wrote(text.index, as_one(text.pieces)))
            text.pieces = []

    def _hand_over(self) -> None:
        """One call into the event loop: requests of which a text has begun or ended, and all of them at their pace."""
        now, orders = time.perf_counter(), set(self._news)
        if now - self._handed_over >= PACE:
            all_orders = {text.order for text in self._texts.values()}
            if now - self._handed_over >= min(PACE_OF_A_REQUEST * len(all_orders), LONGEST_PACE):
                orders, self._handed_over = all_orders, now
        if orders:
            for text in self._texts.values():
                if text.order in orders:
                    self._tell_pieces(text)
        if self._news:
            due, self._news = self._news, {}
            self._call(lambda: _deliver(due))

    def _set_state(self, state: State) -> None:
        self.state = state
        self._call(lambda: self._on_state(self))

    def _end(self, state: State, error: BaseException) -> None:
        with self._changed:
            self.error = error
            refusal = self._unusable(error)
            self._fail_texts(refusal)
            for order in (*self._admitted, *self._waiting):
                self._tell(order, error=refusal)
            self._admitted = []
            self._waiting.clear()
            self.engine = None
            self._set_state(state)
        self._hand_over()
        self._metrics.batch_size.set(0)
        self._metrics.queue.set(0)
        gc.collect()  # weights and caches of several hundred MB may hang in circles

    def _unusable(self, error: BaseException) -> Refusal:
        """What those hear who ask for a model that could not be opened: no mistake of theirs."""
        return error if isinstance(error, Refusal) else Refusal(500, f"{self.model}: {error}", "model_failed")

    def _call(self, function: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed: the server has ended, and nobody waits
            self._stopping = True


def as_one(parts: Sequence[Piece]) -> Piece:
    """Pieces of one text that follow each other."""
    if len(parts) == 1:
        return parts[0]
    tokens = tuple(token for part in parts for token in part.tokens)
    return Piece("".join(part.text for part in parts), tokens, parts[-1].finish if parts else None)


def _deliver(news: Mapping[Order, _News]) -> None:
    for order, what in news.items():
        order.put(what.events, what.error)
