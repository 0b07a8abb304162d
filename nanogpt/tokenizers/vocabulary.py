"""How many tokens a tokenizer has, before it exists: what sizes of models are planned with."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path

from nanogpt.config import HUB

BYTES = 256
GPT2_SIZE = 50257  # 256 bytes, 50,000 merges, the end of a text
CL100K_SIZE = 100_277  # ids 100,256 and 100,261 to 100,275 are no token
O200K_SIZE = 200_019
USUAL_ALPHABET = 100  # characters of an English text with some accents; tiny Shakespeare has 65
USUAL_PUBLISHED = 131_072  # of tokenizers published since 2023: 32,000 to 262,144, most of them near this


def likely_size(tokenizer: str, byte_pairs: int, alphabet: int = USUAL_ALPHABET) -> int:
    """Tokens of the tokenizer that data.tokenizer names, for a data.bpe_vocab_size and a number of characters.

    Exact for published ones and for a tokenizer.json that is here; USUAL_PUBLISHED for one of a hub.
    """
    characters = alphabet + 1  # one more for any other character
    sizes = {
        "auto": max(characters, byte_pairs),
        "char": characters,
        "char_bytes": characters + BYTES,
        "byte": BYTES + 1,
        "bpe": byte_pairs,
        "gpt2": GPT2_SIZE,
        "cl100k_base": CL100K_SIZE,
        "o200k_base": O200K_SIZE,
    }
    if tokenizer in sizes:
        return sizes[tokenizer]
    return USUAL_PUBLISHED if tokenizer.startswith(HUB) else _size_of_file(Path(os.path.expanduser(tokenizer)))


@lru_cache(maxsize=8)
def _size_of_file(path: Path) -> int:
    """One more than the highest id of a tokenizer.json; USUAL_PUBLISHED where there is none that can be read."""
    try:
        content = json.loads((path / "tokenizer.json" if path.is_dir() else path).read_bytes())
        vocabulary = content["model"]["vocab"]
        ids = vocabulary.values() if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
        return 1 + max(*ids, *(int(token["id"]) for token in content.get("added_tokens", [])), 0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return USUAL_PUBLISHED
