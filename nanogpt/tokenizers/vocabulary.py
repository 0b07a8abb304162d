"""How many tokens a tokenizer has, before it exists: what sizes of models are planned with."""

from __future__ import annotations

import json
import math
import os
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from nanogpt import durable
from nanogpt.config import HUB, TOKENIZERS

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
    return USUAL_PUBLISHED if tokenizer.startswith(HUB) else _size_of_file(_file_of(tokenizer))


@lru_cache(maxsize=8)
def _size_of_file(path: Path) -> int:
    """One more than the highest id of a tokenizer.json; USUAL_PUBLISHED where there is none that can be read."""
    try:
        content = json.loads(path.read_bytes())
        vocabulary = content["model"]["vocab"]
        ids = vocabulary.values() if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
        return 1 + max(*ids, *(int(token["id"]) for token in content.get("added_tokens", [])), 0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return USUAL_PUBLISHED


def content_of(tokenizer: str) -> dict[str, str]:
    """What else decides the ids where data.tokenizer names a file: the digest of its content; nothing for a name."""
    if tokenizer in TOKENIZERS or tokenizer.startswith(HUB):
        return {}
    path = _file_of(tokenizer)
    return {"content": durable.sha256_file(path)} if path.is_file() else {}


def _file_of(tokenizer: str) -> Path:
    path = Path(os.path.expanduser(tokenizer))
    return path / "tokenizer.json" if path.is_dir() else path


# Of byte pairs learned from tiny Shakespeare, by their number (measured; of Python's documentation 10 to 25 % more).
_BYTES_PER_TOKEN = {257: 1.0, 512: 1.94, 1024: 2.4, 4096: 3.24, 16384: 3.68, 1_000_000: 3.75}
# Of published ones on tiny Shakespeare (measured; on Python's documentation 3.35, 4.41 and 4.39).
_BYTES_PER_PUBLISHED_TOKEN = {"gpt2": 3.3, "cl100k_base": 3.7, "o200k_base": 3.7}


def likely_bytes_per_token(tokenizer: str, byte_pairs: int, bytes_per_character: float) -> float:
    """Bytes of English text in a token of the tokenizer that data.tokenizer names; `auto` counts as byte pairs."""
    if tokenizer in ("char", "char_bytes"):
        return bytes_per_character
    if tokenizer == "byte":
        return 1.0
    if tokenizer in ("bpe", "auto"):
        (first, least), (last, most) = next(
            pair for pair in pairwise(_BYTES_PER_TOKEN.items()) if byte_pairs <= pair[1][0]
        )
        return least + (most - least) * math.log(byte_pairs / first) / math.log(last / first)
    return _BYTES_PER_PUBLISHED_TOKEN.get(tokenizer, 3.7)
