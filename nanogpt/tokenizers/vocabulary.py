"""How many tokens a tokenizer has, before it exists: what sizes of models are planned with."""

from __future__ import annotations

GPT2_SIZE = 50257  # 256 bytes, 50,000 merges, the end of a text
USUAL_ALPHABET = 100  # characters of an English text with some accents; tiny Shakespeare has 65


def likely_size(tokenizer: str, byte_pairs: int, alphabet: int = USUAL_ALPHABET) -> int:
    """Tokens of the tokenizer that data.tokenizer names, for a data.bpe_vocab_size and a number of characters."""
    characters = alphabet + 1  # one more for any other character
    return {"char": characters, "gpt2": GPT2_SIZE, "bpe": byte_pairs}.get(tokenizer, max(characters, byte_pairs))
