"""How a text is written, and what is known of each piece of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from nanogpt.faults import UserError

LARGEST_SEED = 2**63 - 1
MOST_BEAMS = 1000  # each has its keys and values in memory
MOST_LENGTH_PENALTY = 10  # a length to the power of 100,000 is no float
Finish = Literal["stop", "length"]  # a stop string or the end of the text; as many tokens as were asked for


@dataclass(frozen=True)
class Options:
    """How one text is written. None leaves a choice out. Values are checked when a text begins (UserError).

    temperature divides the logits, 0 takes the likeliest token. top_k, top_p, min_p and typical_p keep a part of the
    vocabulary. repetition_penalty divides the positive logits of tokens that are in the window and multiplies the
    negative ones (Keskar et al. 2019). logit_bias is added to the logits of the tokens that it names. seed: the same
    one gives the same text, alone or in a batch; None draws a fresh one. alternatives: how many of the likeliest
    tokens are stated with each token that was chosen; None states no probabilities. beams above 1 search for the
    likeliest text, its log-probability divided by length ** length_penalty (Wu et al. 2016 without the constant); what
    concerns drawing has no say then. pattern: a regular expression that the text has to match; json_schema: of the
    JSON value that it has to be; both need the extra `constrained`.
    """

    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: str | Sequence[str] | None = None
    seed: int | None = None
    alternatives: int | None = None
    beams: int = 1
    length_penalty: float = 1.0
    pattern: str | None = None
    json_schema: Mapping[str, object] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def is_constrained(self) -> bool:
        return self.pattern is not None or self.json_schema is not None

    def seed_of(self, copy: int) -> int | None:
        """Of the texts that follow one prompt, the one number `copy`: seed, seed + 1, ..., and 0 after the largest."""
        return self.seed if self.seed is None or not copy else (self.seed + copy) % (LARGEST_SEED + 1)

    def check(self, vocab_size: int) -> None:
        """Raises UserError naming the option that is out of range, what was found and what is allowed."""
        bias, stated = self.logit_bias, {name: value for name, value in vars(self).items() if value is not None}

        def require(name: str, fits: Callable[[float], bool], allowed: str) -> None:
            if name in stated and not fits(stated[name]):
                raise UserError(f"{name}: found {stated[name]}, should be {allowed}")

        require("max_new_tokens", lambda count: count >= 0, "0 or more")
        require("temperature", lambda value: 0 <= value < math.inf, "0 (always the likeliest token) or above")
        require("top_k", lambda count: count >= 1, "1 or more tokens")
        require("top_p", lambda share: 0 < share <= 1, "above 0 and at most 1")
        require("min_p", lambda share: 0 <= share <= 1, "from 0 to 1")
        require("typical_p", lambda share: 0 < share <= 1, "above 0 and at most 1")
        require("repetition_penalty", lambda value: 0 < value < math.inf, "above 0; 1 changes nothing")
        require("seed", lambda seed: 0 <= seed <= LARGEST_SEED, "0 or above and below 2**63")
        require("alternatives", lambda count: count >= 0, "0 or more")
        require("beams", lambda count: 1 <= count <= MOST_BEAMS, f"from 1 to {MOST_BEAMS:,}")
        most = MOST_LENGTH_PENALTY
        require("length_penalty", lambda value: abs(value) <= most, f"from -{most} to {most}")
        if self.pattern is not None and self.json_schema is not None:
            raise UserError("pattern: found with json_schema, should be one of the two")
        if self.beams > 1 and self.is_constrained:
            raise UserError(f"beams: found {self.beams}, should be 1 with pattern or json_schema")
        if not all(self.stops):
            raise UserError("stop: found an empty text, should be one character or more")
        for token, value in bias.items():
            if not 0 <= token < vocab_size:
                raise UserError(f"logit_bias: found token {token}, should be from 0 to {vocab_size - 1}")
            if not value < math.inf:  # nor NaN
                raise UserError(f"logit_bias: found {value}, should be a number, or -inf for a token that may not come")
        if list(bias.values()).count(-math.inf) == vocab_size:
            raise UserError("logit_bias: found -inf for every token, should leave one or more")


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
    stop: str | Sequence[str] | None
    seed: int | None
    alternatives: int | None
    beams: int
    length_penalty: float
    pattern: str | None
    json_schema: Mapping[str, object] | None


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
