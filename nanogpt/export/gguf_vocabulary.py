"""A tokenizer as llama.cpp keeps one in a GGUF file: the kind that it calls gpt2, byte pairs over stand-ins for bytes.

Characters fit in too: each is a token of its own, and one that takes several bytes in UTF-8 gets the merges that join
them, first byte to last. Text of the alphabet has the same ids there as here; llama.cpp drops what is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf import TokenType

from nanogpt.faults import UserError
from nanogpt.tokenizers.byte_pairs import GPT2_PATTERN, BPETokenizer, stand_ins
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.tokenizer import UNKNOWN, Tokenizer

NO_MERGES = "\u0100 \u0100"  # llama.cpp refuses a file without merges; no alphabet has two NUL bytes as one character


@dataclass(frozen=True)
class Vocabulary:
    """`tokens` and `types`: one for each row of the model's table. `end`: the token at which llama.cpp stops."""

    tokens: list[str]
    types: list[TokenType]
    merges: list[str]
    end: int
    unknown: int | None = None


def vocabulary(tokenizer: Tokenizer, rows: int) -> Vocabulary:
    """The vocabulary of a model with `rows` tokens. Raises UserError where refusal() has a reason."""
    reason = refusal(tokenizer, rows)
    if reason:
        raise UserError(reason)
    tokens, types, merges = _of_characters(tokenizer) if isinstance(tokenizer, CharTokenizer) else _of_bpe(tokenizer)
    tokens += [f"[PAD{row}]" for row in range(len(tokens), rows)]
    types += [TokenType.UNUSED] * (rows - len(types))
    end = _end(tokenizer, rows)
    assert end is not None
    unknown = tokenizer.unknown if isinstance(tokenizer, CharTokenizer) and not tokenizer.closed else None
    return Vocabulary(tokens, types, merges or [NO_MERGES], end, unknown)


def refusal(tokenizer: Tokenizer, rows: int) -> str:
    """Why llama.cpp cannot hold this tokenizer; empty where it can."""
    if isinstance(tokenizer, BPETokenizer) and tokenizer.pattern != GPT2_PATTERN:
        return f"tokenizer: splits text by a rule of its own ({tokenizer.pattern}); GGUF names rules, and holds GPT-2's"
    if _end(tokenizer, rows) is None:
        return "tokenizer: has no token for the end of a text; llama.cpp would take token 11 for it and stop there"
    return ""


def _end(tokenizer: Tokenizer, rows: int) -> int | None:
    """The end of a text, or a token that no text has. Without one, llama.cpp takes token 11 of such a vocabulary."""
    if tokenizer.end_of_text is not None:
        return tokenizer.end_of_text
    if isinstance(tokenizer, CharTokenizer) and not tokenizer.closed:
        return tokenizer.unknown
    return tokenizer.vocab_size if tokenizer.vocab_size < rows else None


def _of_characters(tokenizer: CharTokenizer) -> tuple[list[str], list[TokenType], list[str]]:
    """Tokens, types and merges of an alphabet."""
    tokens = [stand_ins(character.encode("utf-8")) for character in tokenizer.alphabet]
    # "e2 80 99" is joined as "e2 80" and then "e280 99"; characters that begin alike share merges.
    merges = {f"{token[:end]} {token[end]}": None for token in tokens for end in range(1, len(token))}
    special = [] if tokenizer.closed else [UNKNOWN]
    types = [TokenType.NORMAL] * len(tokens) + [TokenType.UNKNOWN] * len(special)
    return tokens + special, types, list(merges)


def _of_bpe(tokenizer: Tokenizer) -> tuple[list[str], list[TokenType], list[str]]:
    """Tokens, types and merges of byte pairs; an id that none has is a token that is not used."""
    content, _ = tokenizer.hugging_face()
    named = {int(index): (str(token), TokenType.NORMAL) for token, index in content["model"]["vocab"].items()}
    named |= {int(added["id"]): (str(added["content"]), TokenType.CONTROL) for added in content["added_tokens"]}
    ids = range(tokenizer.vocab_size)
    found = [named.get(index, (f"[PAD{index}]", TokenType.UNUSED)) for index in ids]
    merges = [" ".join(pair) for pair in content["model"]["merges"]]
    return [token for token, _ in found], [kind for _, kind in found], merges
