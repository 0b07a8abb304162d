"""Beam search: the text that the model finds likeliest, of those that a few beams come by."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nanogpt.decoders.protocol import Logits
from nanogpt.faults import NonFiniteError
from nanogpt.inference.batch import Model, Writing
from nanogpt.inference.options import Options, Piece, Token
from nanogpt.inference.sampling import described
from nanogpt.inference.text_stream import TextStream


@dataclass(eq=False)
class Beam:
    """A text so far. window: the tokens that the model looks back on, newest last; logprob: of all that was written."""

    window: list[int]
    stream: TextStream
    text: str = ""
    count: int = 0
    logprob: float = 0.0
    tokens: tuple[Token, ...] = field(default=())

    def with_token(self, token: int, logprob: float, known: tuple[Token, ...]) -> Beam:
        stream = self.stream.copied()
        text = self.text + stream.write(token)
        return Beam([*self.window, token], stream, text, self.count + 1, logprob, self.tokens + known)

    def score(self, length_penalty: float) -> float:
        return self.logprob / float(max(1, self.count) ** length_penalty)


def beam_search(model: Model, prompt: str, options: Options) -> Piece:
    """The whole text with the best logprob / length ** length_penalty that `options.beams` beams find, in one piece.

    At each step the likeliest continuations of all beams go on; those that have ended are set aside with their score.
    It ends when no beam can overtake the best of them. Repetition penalty and logit bias count; what concerns drawing
    (temperature, top_k, ..., seed) has no say. Raises UserError as Batch.add() does, NonFiniteError.
    """
    return _Search(model, prompt, options).best()


class _Search:
    def __init__(self, model: Model, prompt: str, options: Options):
        writing = Writing(model, prompt, options)
        self.model, self.options, self.sampler = model, options, writing.sampler
        self.beams = [Beam(writing.window, writing.text)]
        self.ended: list[Beam] = []
        self.cache = model.decoder.new_cache()

    def best(self) -> Piece:
        limit, penalty = self.options.max_new_tokens, self.options.length_penalty
        logits = self._read() if limit else None
        while logits is not None:
            parents = self._extend(logits)
            if not self.beams or self.beams[0].count == limit or self._is_decided():
                break
            logits = self._next_logits(parents)
        found = max([*self.ended, *self.beams], key=lambda beam: beam.score(penalty))
        text = found.text if found.stream.ended else found.text + found.stream.rest()
        return Piece(text, found.tokens, "stop" if found.stream.ended else "length")

    def _extend(self, logits: Logits) -> list[int]:
        """Go on with the likeliest continuations -> the beam that each of them came from."""
        logprobs = np.stack([self._logprobs(beam, row) for beam, row in zip(self.beams, logits, strict=True)])
        totals = logprobs + np.array([[beam.logprob] for beam in self.beams])  # (beams, vocab_size)
        # Each beam has one token that ends it, or a few that end in a stop: twice as many leave enough to go on with.
        count = min(2 * self.options.beams, totals.size)
        flat = np.argpartition(-totals, count - 1, axis=None)[:count]
        flat = flat[np.lexsort((flat, -totals.flat[flat]))]  # best first
        extended: list[Beam] = []
        parents: list[int] = []
        for parent, token in zip(*np.unravel_index(flat, totals.shape), strict=True):
            if len(extended) == self.options.beams or totals[parent, token] == -np.inf:
                break
            number = self.options.alternatives
            known = () if number is None else (described(int(token), logits[parent], number, self.model.tokenizer),)
            beam = self.beams[parent].with_token(int(token), float(totals[parent, token]), known)
            if beam.stream.ended:
                self.ended.append(beam)
            else:
                extended.append(beam)
                parents.append(int(parent))
        self.beams = extended
        return parents

    def _logprobs(self, beam: Beam, logits: Logits) -> npt.NDArray[np.float64]:
        """(vocab_size,), with the repetition penalty and the biases. Raises NonFiniteError."""
        if not np.isfinite(logits.max()):
            raise NonFiniteError("the model computes NaN or infinity instead of the next token")
        logits = logits.copy()
        self.sampler.window = beam.window
        self.sampler.adjust(logits)
        distances = logits.astype(np.float64) - logits.max()
        logprobs: npt.NDArray[np.float64] = distances - np.log(np.exp(distances).sum())
        return logprobs

    def _is_decided(self) -> bool:
        """Whether no beam can overtake the best text that has ended: its logprob only falls from here."""
        penalty = self.options.length_penalty
        longest = self.options.max_new_tokens if penalty > 0 else self.beams[0].count + 1
        best = max((beam.score(penalty) for beam in self.ended), default=-np.inf)
        return bool(best >= max(beam.logprob for beam in self.beams) / longest**penalty)

    def _next_logits(self, parents: list[int]) -> Logits:
        """(beams, vocab_size); all beams are equally long, so their windows slide together."""
        context = self.model.context
        if len(self.beams[0].window) > context:
            for beam in self.beams:
                del beam.window[: -max(1, context // 2)]
            return self._read()
        self.cache.select(parents)
        return self.model.decoder.step(np.array([beam.window[-1] for beam in self.beams]), self.cache)

    def _read(self) -> Logits:
        self.cache = self.model.decoder.new_cache()
        return self.model.decoder.prefill([beam.window for beam in self.beams], self.cache)
