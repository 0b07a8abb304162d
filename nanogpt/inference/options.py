"""How a text is written, and what is known of each piece of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

Finish = Literal["stop", "length"]  # a stop string or the end of the text; as many tokens as were asked for


@dataclass(frozen=True)
class Options:
    """How one text is written. None leaves a choice out. Values are checked when a text begins (UserError).

    temperature divides the logits, 0 takes the likeliest token. top_k, top_p, min_p and typical_p keep a part of the
    vocabulary. repetition_penalty divides the positive logits of tokens that are in the window and multiplies the
    negative ones (Keskar et al. 2019). logit_bias is added to the logits of the tokens that it names. seed: the same
    one gives the same text, alone or in a batch; None draws a fresh one. alternatives: how many of the likeliest
    tokens are stated with each token that was chosen; None states no probabilities. beams above 1 search for the
    likeliest text, its log-probability divided by length ** length_penalty (Wu et al. 2016 without the constant).
    """

    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: str | Sequence[str] = ()
    seed: int | None = None
    alternatives: int | None = None
    beams: int = 1
    length_penalty: float = 1.0

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class Changes(TypedDict, total=False):
    """Options by name, as keyword arguments: engine.complete(prompt, temperature=0.5)."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float
    logit_bias: Mapping[int, float]
    stop: str | Sequence[str]
    seed: int | None
    alternatives: int | None
    beams: int
    length_penalty: float


@dataclass(frozen=True)
class Alternative:
    """A token that could have come. logprob: natural logarithm of its probability under the model, temperature 1."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Token:
    """A token that was written; `alternatives` are the likeliest, best first, and may hold the token itself."""

    id: int
    text: str
    logprob: float
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class Piece:
    """What one step added to a text: whole characters, or none while a character or a stop string is unfinished.

    tokens: with Options.alternatives, what was chosen. finish: why the text ends here, or None.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    finish: Finish | None = None
