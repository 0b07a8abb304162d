"""Noise in what a training reads, against learning by heart; what it has to predict stays the text.

A causal model needs a token at each place, so one that is dropped becomes another one, drawn from the whole vocabulary
with equal chances. Sources: Bowman et al. 2016, "Generating Sentences from a Continuous Space" (word dropout); Raffel
et al. 2020, T5 (spans of 3 on average).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SPAN = 3.0  # tokens, on average
TAG = 0xA06  # with it in their key, these numbers are no others that come from a training's seed


@dataclass(frozen=True)
class Augmentation:
    """Shares of the tokens that are replaced: each for itself (`token_dropout`), and in spans (`span_corruption`)."""

    token_dropout: float
    span_corruption: float
    vocab_size: int
    seed: int
    kept: int | None = None  # the token between documents: neither replaced nor drawn

    def apply(self, tokens: npt.NDArray[np.int64], index: int) -> None:
        """Replace in tokens (T,), the inputs of sample `index`: a pure function of (seed, index)."""
        generator = np.random.Generator(np.random.PCG64([self.seed, index, TAG]))
        replaced = generator.random(len(tokens)) < self.token_dropout
        if self.span_corruption:
            replaced |= self._in_spans(generator, len(tokens))
        if self.kept is not None:
            replaced &= tokens != self.kept
        drawn = generator.integers(self.vocab_size - (self.kept is not None), size=len(tokens))
        if self.kept is not None:
            drawn += drawn >= self.kept
        tokens[replaced] = drawn[replaced]

    def _in_spans(self, generator: np.random.Generator, length: int) -> npt.NDArray[np.bool_]:
        """(length,): whether a token is in a span. Lengths are geometric, so that no place is more often in one."""
        share = self.span_corruption
        begins_in_span = generator.random() < share
        runs = length // 2 + 1  # of both kinds, each a token at least
        gaps = generator.geometric(share / (SPAN * (1 - share)), size=runs)
        spans = generator.geometric(1 / SPAN, size=runs)
        first, second = (spans, gaps) if begins_in_span else (gaps, spans)
        kinds = np.tile([begins_in_span, not begins_in_span], runs)
        return np.repeat(kinds, np.minimum(np.stack([first, second], axis=1).ravel(), length))[:length]
