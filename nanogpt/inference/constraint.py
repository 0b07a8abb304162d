"""Text that keeps to a regular expression or a JSON schema, by llguidance (the extra `constrained`)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nanogpt.faults import UserError
from nanogpt.inference.options import Options
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:  # an optional package
    from llguidance import LLTokenizer

MOST_STATES = 10_000  # of a multipleOf: as many as it is large; a million take 19 s, and 2^31 all memory
LEAST = -(2.0**63)  # a number at which llguidance 1.9 runs out of stack, and the process ends
ONE_OF_ANOTHER = {"allOf", "anyOf", "oneOf", "$ref"}  # by which a value has to be multiples of several numbers


class Constraint:
    """What one text may go on with. Raises UserError without llguidance, and for what no text can keep to.

    pattern: a regular expression that the whole text has to match; json_schema: of the one JSON value that it has to
    be. The text ends where nothing can follow, or where its model ends it.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, options: Options):
        self.name = "json_schema" if options.pattern is None else "pattern"
        try:
            from llguidance import LLMatcher
        except ImportError:
            raise UserError(f"{self.name}: needs llguidance, which is not installed: pip install llguidance") from None
        if options.pattern is not None:
            try:
                grammar = LLMatcher.grammar_from_regex(options.pattern)
            except UnicodeEncodeError as error:
                raise UserError(f"pattern: its character {error.start + 1} is not text in UTF-8") from None
        else:
            check_numbers(options.json_schema or {})
            compact = {"x-guidance": {"whitespace_flexible": False}}  # else a model may write spaces for ever
            grammar = LLMatcher.grammar_from_json_schema(json.dumps({**compact, **(options.json_schema or {})}))
        mistake = LLMatcher.validate_grammar(grammar, _vocabulary(tokenizer, vocab_size))
        if mistake:
            raise UserError(f"{self.name}: {mistake.splitlines()[0]}")
        self._matcher = LLMatcher(_vocabulary(tokenizer, vocab_size), grammar)
        self._vocab_size, self._end = vocab_size, tokenizer.end_of_text
        self._look()

    def take(self, token: int) -> None:
        """The text goes on with `token`, one of those that may come. Raises UserError when it can go no further."""
        self._matcher.consume_token(token)
        self._look()

    def _look(self) -> None:
        """Set `allowed`, the tokens (vocab_size,) that may come next, and `is_complete`: nothing can but the end."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)  # of the end alone where it has stopped
        bits: npt.NDArray[np.bool_] = np.unpackbits(mask, count=self._vocab_size + 1, bitorder="little").astype(bool)
        end = self._vocab_size if self._end is None else self._end
        self.allowed, self.is_complete = bits[: self._vocab_size], bool(bits[end]) and bits.sum() == 1
        if self._matcher.is_error() or not bits.any():
            raise UserError(f"{self.name}: no token of the model's vocabulary can go on with it")


def check_numbers(schema: Mapping[str, Any]) -> None:
    """Raise UserError for a schema with numbers on which llguidance takes the process or its memory."""
    keys, divisors = set[str](), list[Decimal]()
    for key, value in _inner(schema):
        keys.add(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        number = Decimal(str(value))
        if number.is_finite() and float(number) == LEAST:
            raise UserError(f"json_schema: {key}: found {value}, should be above -2^63")
        if number.is_finite() and number > 0 and key == "multipleOf":
            divisors.append(number)
    places = [max(0, -int(divisor.as_tuple().exponent)) for divisor in divisors]
    if keys & ONE_OF_ANOTHER:
        most = math.prod(divisor.scaleb(max(places, default=0)) for divisor in divisors)
    else:
        most = max([divisor.scaleb(own) for divisor, own in zip(divisors, places, strict=True)], default=Decimal(0))
    if most > MOST_STATES:
        found = " and ".join(map(str, divisors[:3]))
        raise UserError(f"json_schema: multipleOf: found {found}, should be smaller: they take {most:.1e} states")


def _inner(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each value in `content`, however deep, with the key under which it stands."""
    waiting: list[tuple[str, Any]] = [*content.items()]
    while waiting:
        key, value = waiting.pop()
        yield key, value
        if isinstance(value, Mapping):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, part) for part in value]


class _Tokens:
    """A vocabulary as llguidance wants it, with an end of text as one token more where it has none."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int):
        self.encode = tokenizer.encode
        self.tokens = [tokenizer.decode_bytes([token]) for token in range(min(tokenizer.vocab_size, vocab_size))]
        self.tokens += [b""] * (vocab_size - len(self.tokens)) + [b"<|end|>"]
        self.eos_token_id = vocab_size if tokenizer.end_of_text is None else tokenizer.end_of_text
        self.special_token_ids = [self.eos_token_id, vocab_size]
        self._unknown = tokenizer.unknown if isinstance(tokenizer, CharTokenizer) else -1
        if 0 <= self._unknown < len(self.tokens) - 1:
            self.tokens[self._unknown] = b""  # it stands for no text

    def __call__(self, text: str) -> list[int]:
        if isinstance(text, bytes):
            raise TypeError("takes text")  # llguidance asks which of the two it is
        return [token for token in self.encode(text).tolist() if token != self._unknown]


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokenizer, vocab_size: int) -> LLTokenizer:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Tokens(tokenizer, vocab_size)), vocab_size + 1)
