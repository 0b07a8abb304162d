"""Texts that are written together, one token of each at a time; they join and leave between two steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from nanogpt.decoders.protocol import Cache, Decoder, Logits
from nanogpt.faults import NonFiniteError, UserError
from nanogpt.inference.constraint import Constraint
from nanogpt.inference.options import Finish, Options, Piece
from nanogpt.inference.prefix_cache import PrefixCache
from nanogpt.inference.prompts import normalised
from nanogpt.inference.sampling import NOT_A_TOKEN, Sampler, choose, described
from nanogpt.inference.text_stream import TextStream
from nanogpt.tokenizers.tokenizer import Tokenizer


class Model(Protocol):
    """What a batch is written with; Engine is one. `context`: tokens that a text looks back on at most."""

    @property
    def decoder(self) -> Decoder: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def context(self) -> int: ...

    @property
    def prefixes(self) -> PrefixCache: ...


class Writing:
    """One text of a batch.

    window: the tokens that the model looks back on, newest last. prompt_tokens: of the whole prompt. slid: the window
    has left out the beginning of the text, at most `context` tokens are seen. finish: why the text has ended. error:
    the model computed NaN, or nothing can follow that the text is constrained to, and the text ended there.
    """

    def __init__(self, model: Model, prompt: str, options: Options):
        tokenizer = model.tokenizer
        tokens = tokenizer.encode(normalised(prompt, tokenizer)).tolist() or start_of_a_text(tokenizer)
        self.options = options
        self.prompt_tokens, self.new_tokens = len(tokens), 0
        self.window: list[int] = tokens[-model.context :]
        self.slid = len(tokens) > model.context
        self.finish: Finish | None = None
        self.error: NonFiniteError | UserError | None = None
        vocab_size = model.decoder.config.vocab_size
        assert vocab_size is not None  # a model that is there knows it
        options.check(vocab_size)
        self.constraint = Constraint(tokenizer, vocab_size, options) if options.is_constrained else None
        self.sampler = Sampler(options, self.window, self.constraint)
        self.text = TextStream(tokenizer, options.stops)

    @property
    def ended(self) -> bool:
        return self.finish is not None or self.error is not None

    def slide(self, context: int) -> None:
        """Forget the older part of a window of `context` tokens and the newest one.

        So at least half a window is always seen, and a token costs two positions of work on average.
        """
        del self.window[: -max(1, context // 2)]
        self.slid = True

    def add(self, token: int) -> str:
        """Append `token`; what can be shown now."""
        self.window.append(token)
        self.new_tokens += 1
        text = self.text.write(token)
        if self.constraint is not None and not self.text.ended:
            self.constraint.take(token)
        if self.text.ended or (self.constraint is not None and self.constraint.is_complete):
            self.finish = "stop"
            text += self.text.rest()
        elif self.new_tokens >= self.options.max_new_tokens:
            self.finish = "length"
            text += self.text.rest()
        return text


def start_of_a_text(tokenizer: Tokenizer) -> list[int]:
    """What stands for an empty prompt."""
    if tokenizer.end_of_text is not None:
        return [tokenizer.end_of_text]
    return [int(token) for token in tokenizer.encode("\n")] if tokenizer.reads("\n") else [0]


def go_on(writing: Writing, token: int, logits: Logits, tokenizer: Tokenizer) -> Piece:
    """What `token`, chosen by logits (vocab_size,), adds to a text; nothing where that ends it with an error."""
    if token == NOT_A_TOKEN:
        writing.error = NonFiniteError("the model computes NaN or infinity instead of the next token")
        return Piece("")
    try:
        text = writing.add(token)
    except UserError as error:  # the constraint leads where this vocabulary cannot go
        writing.error = error
        return Piece("")
    count = writing.options.alternatives
    tokens = () if count is None else (described(token, logits, count, tokenizer),)
    return Piece(text, tokens, writing.finish)


class Batch:
    """Texts that share each pass through the model. Its methods are for one thread at a time."""

    def __init__(self, model: Model):
        self.model = model
        self._texts: list[Writing] = []  # those whose last step is in the cache, in the order of its rows
        self._new: list[Writing] = []
        self._cache: Cache = model.decoder.new_cache()

    def __len__(self) -> int:
        """Texts that are being written."""
        return sum(not writing.ended for writing in [*self._texts, *self._new])

    def add(self, prompt: str, options: Options, copies: int = 1) -> list[Writing]:
        """Begin texts that follow `prompt`, with seed, seed + 1, ...; the next step reads it, once for all copies.

        Raises UserError for an option out of range, for a prompt that is not text and for what no text can be
        constrained to.
        """
        if options.beams > 1:
            raise UserError(f"beams: found {options.beams}, should be 1 for a text that is written with others")
        first = Writing(self.model, prompt, options)
        others = [
            Writing(self.model, prompt, replace(options, seed=options.seed_of(copy))) for copy in range(1, copies)
        ]
        self._new += [first, *others]
        return [first, *others]

    def drop(self, writing: Writing) -> None:
        """End a text before its time: no piece of it comes any more."""
        if not writing.ended:
            writing.finish = "stop"
            self._remember(writing)

    def step(self) -> list[tuple[Writing, Piece]]:
        """One token of every text, or what ends it.

        A text for which the model computes NaN, or that can no longer be what it is constrained to, ends with `error`
        and an empty piece; the others go on.
        """
        empty = [writing for writing in self._new if not writing.ended and not writing.options.max_new_tokens]
        for writing in empty:
            writing.finish = "length"
        written = [(writing, Piece("", finish="length")) for writing in empty]
        logits = self._next_logits()  # (B, vocab_size)
        if logits is None:
            return written
        tokens = choose(logits, [writing.sampler for writing in self._texts])
        for writing, token, row in zip(self._texts, tokens, logits, strict=True):
            written.append((writing, go_on(writing, token, row, self.model.tokenizer)))
            if writing.finish is not None:
                self._remember(writing)
        return written

    def _remember(self, writing: Writing) -> None:
        """Keep what was read of a text: all but its newest token."""
        if writing in self._texts and not writing.slid:
            self.model.prefixes.keep(writing.window[:-1], self._cache, self._texts.index(writing))

    def _next_logits(self) -> Logits | None:
        """The logits (B, vocab_size) behind each text that goes on, which are then the rows of the cache.

        Past the context: when a window is full, its newer half is read again as a new window and decoding continues
        behind it.
        """
        context = self.model.context
        read = [writing for writing in self._new if not writing.ended]
        rows = []
        for row, writing in enumerate(self._texts):
            if writing.ended:
                continue
            if len(writing.window) <= context:
                rows.append(row)
            else:
                writing.slide(context)
                read.append(writing)
        if len(rows) < len(self._texts):
            self._cache.select(rows)
            self._texts = [self._texts[row] for row in rows]
        self._new, logits = [], []
        if self._texts:
            newest = np.array([writing.window[-1] for writing in self._texts])
            logits.append(self.model.decoder.step(newest, self._cache))
        if read:
            logits.append(self._read([writing.window for writing in read]))
            self._texts += read
        return None if not logits else logits[0] if len(logits) == 1 else np.concatenate(logits)

    def _read(self, windows: Sequence[Sequence[int]]) -> Logits:
        """Append windows to the cache, equal ones read once -> logits (len(windows), vocab_size)."""
        decoder, remembered = self.model.decoder, self.model.prefixes
        distinct = list(dict.fromkeys(map(tuple, windows)))
        begun = {window: cache for window in distinct if (cache := remembered.begun(window)) is not None}
        unread = [window for window in distinct if window not in begun]
        cache, logits = decoder.new_cache(), []
        if unread:
            logits.append(decoder.prefill(unread, cache))
        for window, beginning in begun.items():
            logits.append(decoder.prefill([window[beginning.lengths[0] :]], beginning))
            cache.join(beginning)
        places = {window: place for place, window in enumerate([*unread, *begun])}
        rows = [places[tuple(window)] for window in windows]
        if rows != list(range(len(places))):
            cache.select(rows)
        if self._texts:
            self._cache.join(cache)
        else:
            self._cache = cache
        return np.concatenate(logits)[rows]
