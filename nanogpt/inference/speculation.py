"""Speculative decoding: a smaller model guesses what comes next, and the model reads all its guesses in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from nanogpt.decoders.protocol import Decoder
from nanogpt.inference.batch import Model, Writing, go_on
from nanogpt.inference.options import Options, Piece
from nanogpt.inference.sampling import NOT_A_TOKEN, Sampler, choose

GUESSES = 4  # tokens


def speculate(model: Model, draft: Decoder, writing: Writing) -> Iterator[Piece]:
    """The text of `writing`, not begun yet, the same one as without `draft`; a piece for each token.

    Leviathan et al. 2023 accept a guess with a probability that keeps the distribution. Here a token is decided by the
    text's next uniform number and the model's logits alone, so `draft` guesses with the same number, and a guess is
    accepted where the model decides the same: the text keeps to its seed.

    Measured on busy cores, one thread, the ladder's 0.8 M parameters guessing for its 4.85 M (tiny Shakespeare, 100
    tokens, the third-fastest of 7, alternating): decoders in C 1.8 times as fast at temperature 0.8 and 1.6 times
    greedily, 3.1 and 3.2 tokens a pass; with 2 or 6 guesses 1.6 to 1.7 times. With onnxruntime 0.9 to 1.3 times: its
    passes over few tokens cost twice a step. Guesses looked up in the text itself were right too rarely to pay (1.05
    tokens a pass).
    Raises writing.error where the text ends with one.
    """
    options = writing.options
    guesser = _Guesser(draft, writing.window, options)
    decoder, cache = model.decoder, model.decoder.new_cache()
    while not writing.ended and options.max_new_tokens:  # a token or more each time
        if len(writing.window) > model.context:
            writing.slide(model.context)
            cache = decoder.new_cache()
        most = min(model.context - len(writing.window), options.max_new_tokens - writing.new_tokens - 1)
        guesses = guesser.guess(min(GUESSES, most), writing.sampler)
        held = cache.lengths[0] if cache.lengths else 0
        if held < len(writing.window) - 1:  # a prompt, whose logits are not needed
            decoder.prefill([writing.window[held:-1]], cache)
        logits = decoder.prefill([[writing.window[-1], *guesses]], cache, every=True)  # (1 + guesses, vocab_size)
        written: list[int] = []
        for row, guess in zip(logits, [*guesses, None], strict=True):
            written += choose(row[None], [writing.sampler])
            piece = go_on(writing, written[-1], row, model.tokenizer)
            if writing.error is not None:
                raise writing.error
            yield piece
            if writing.finish is not None or written[-1] != guess:
                break
        cache.cut([len(writing.window) - 1])
        guesser.hear(written)
    if not options.max_new_tokens:
        writing.finish = "length"
        yield Piece("", finish="length")


class _Guesser:
    """The smaller model on the same text. Where its context is full, its newer half is read again."""

    def __init__(self, decoder: Decoder, window: Sequence[int], options: Options):
        self.decoder, self.context = decoder, decoder.config.block_size
        self.window, self.guesses = list(window[-self.context :]), list[int]()
        self.sampler = Sampler(options, self.window)
        self.cache = decoder.new_cache()

    def guess(self, count: int, sampler: Sampler) -> list[int]:
        """At most `count` tokens, by the next random numbers of `sampler`."""
        self.guesses = []
        if count < 1:
            return []
        if len(self.window) + count > self.context:
            del self.window[: -max(1, self.context // 2)]
            self.cache = self.decoder.new_cache()
        held = self.cache.lengths[0] if self.cache.lengths else 0
        self.sampler.follow(sampler, count)
        logits = self.decoder.prefill([self.window[held:]], self.cache)
        while (token := choose(logits, [self.sampler])[0]) != NOT_A_TOKEN:
            self.guesses.append(token)
            if len(self.guesses) == count:
                break
            logits = self.decoder.step(np.array([token]), self.cache)
        return self.guesses

    def hear(self, written: Sequence[int]) -> None:
        """The text has gone on with `written`."""
        right = 0
        while right < min(len(self.guesses), len(written)) and written[right] == self.guesses[right]:
            right += 1
        if self.cache.lengths:
            self.cache.cut([min(self.cache.lengths[0], len(self.window) + right)])
        self.window += written
