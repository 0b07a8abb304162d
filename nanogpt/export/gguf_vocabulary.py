"""A tokenizer as llama.cpp keeps one in a GGUF file, by the kinds that it knows.

gpt2: byte pairs over stand-ins for bytes, with a splitting rule by its name. Characters fit in too: each is a token of
its own, and one that takes several bytes in UTF-8 gets the merges that join them, first byte to last. Text of the
alphabet has the same ids there as here; llama.cpp drops what is not in it.

llama: SentencePiece's, for characters with bytes: what is no token is the bytes of its UTF-8, there as here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gguf import TokenType

from nanogpt.faults import UserError
from nanogpt.tokenizers.byte_pairs import BPETokenizer, stand_ins
from nanogpt.tokenizers.character_bytes import BYTE_NAMES, CharBytesTokenizer
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.patterns import BLANK, CL100K_PATTERN, GPT2_PATTERN, O200K_PATTERN, QWEN_PATTERN
from nanogpt.tokenizers.tokenizer import END_OF_TEXT, UNKNOWN, Tokenizer

NO_MERGES = "\u00ff \u00ff"  # llama.cpp refuses a file without merges; no text has two bytes 0xFF
RULES = {  # llama.cpp's names of them; text, and each character of a few scripts mixed, has the same ids there
    GPT2_PATTERN: "gpt-2",
    CL100K_PATTERN: "llama-bpe",
    QWEN_PATTERN: "qwen2",
    O200K_PATTERN: "gpt-4o",
}


@dataclass(frozen=True)
class Vocabulary:
    """`tokens` and `types`: one for each row of the model's table. `end`: the token at which llama.cpp stops."""

    tokens: list[str]
    types: list[TokenType]
    merges: list[str]
    end: int
    unknown: int | None = None
    kind: Literal["gpt2", "llama"] = "gpt2"
    rule: str = "gpt-2"


def vocabulary(tokenizer: Tokenizer, rows: int) -> Vocabulary:
    """The vocabulary of a model with `rows` tokens. Raises UserError where refusal() has a reason."""
    reason = refusal(tokenizer, rows)
    if reason:
        raise UserError(reason)
    kind: Literal["gpt2", "llama"] = "gpt2"
    rule, unknown = RULES[GPT2_PATTERN], None
    if isinstance(tokenizer, CharTokenizer):
        tokens, types, merges = _of_characters(tokenizer)
        unknown = None if tokenizer.closed else tokenizer.unknown
    elif isinstance(tokenizer, CharBytesTokenizer):
        (tokens, types), merges, kind, rule = _of_character_bytes(tokenizer), [], "llama", "default"
    else:
        assert isinstance(tokenizer, BPETokenizer)
        tokens, types, merges = _of_bpe(tokenizer)
        rule = RULES[tokenizer.pattern]
    tokens += [f"[PAD{row}]" for row in range(len(tokens), rows)]
    types += [TokenType.UNUSED] * (rows - len(types))
    end = _end(tokenizer, rows)
    assert end is not None
    return Vocabulary(tokens, types, merges or [NO_MERGES], end, unknown, kind, rule)


def refusal(tokenizer: Tokenizer, rows: int) -> str:
    """Why llama.cpp cannot hold this tokenizer; empty where it can."""
    if isinstance(tokenizer, BPETokenizer):
        if tokenizer.pattern not in RULES:
            return f"tokenizer: splits text by a rule that GGUF has no exact name for ({tokenizer.pattern})"
    elif isinstance(tokenizer, CharBytesTokenizer):
        if BLANK in tokenizer.alphabet:
            return f"tokenizer: its alphabet has {BLANK} (U+2581), which llama.cpp takes for a blank"
    elif not isinstance(tokenizer, CharTokenizer):
        return "tokenizer: is neither characters nor byte pairs over bytes, which is what the GGUF export can write"
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


def _of_character_bytes(tokenizer: CharBytesTokenizer) -> tuple[list[str], list[TokenType]]:
    """Tokens and types of an alphabet with bytes; a blank is written as SentencePiece writes it."""
    characters = [BLANK if character == " " else character for character in tokenizer.alphabet]
    types = [TokenType.NORMAL] * len(characters) + [TokenType.BYTE] * len(BYTE_NAMES) + [TokenType.CONTROL]
    return [*characters, *BYTE_NAMES, END_OF_TEXT], types


def _of_bpe(tokenizer: BPETokenizer) -> tuple[list[str], list[TokenType], list[str]]:
    """Tokens, types and merges of byte pairs; an id that none has is a token that is not used."""
    content, _ = tokenizer.hugging_face()
    named = {int(index): (str(token), TokenType.NORMAL) for token, index in content["model"]["vocab"].items()}
    named |= {int(added["id"]): (str(added["content"]), TokenType.CONTROL) for added in content["added_tokens"]}
    ids = range(tokenizer.vocab_size)
    found = [named.get(index, (f"[PAD{index}]", TokenType.UNUSED)) for index in ids]
    merges = [" ".join(pair) for pair in content["model"]["merges"]]
    return [token for token, _ in found], [kind for _, kind in found], merges
