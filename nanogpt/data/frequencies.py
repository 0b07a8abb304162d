"""How often each token of a data folder occurs: its ranks, lengths, and what the commonest make up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from nanogpt.data.shards import count_tokens, open_split, read_manifest
from nanogpt.results.text import TokenFrequencies
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer

MOST_COUNTED = 1 << 28  # tokens: 2 s; the ranks of more of the same text are the same
POINTS = 80  # of the ranks
SHARES = (0.5, 0.9, 0.99)


def frequencies_of(folder: Path) -> TokenFrequencies:
    """Of all splits, or of their first MOST_COUNTED tokens. Raises UserError, CorruptFileError."""
    tokenizer = load_tokenizer(folder)
    counts, left = np.zeros(tokenizer.vocab_size, np.int64), MOST_COUNTED
    for name in read_manifest(folder).splits:
        tokens = open_split(folder, name).tokens
        counts += count_tokens(tokens[:left] if len(tokens) > left else tokens, tokenizer.vocab_size)
        left = max(0, left - len(tokens))
    return frequencies(tokenizer, counts)


def frequencies(tokenizer: Tokenizer, counts: npt.NDArray[np.int64]) -> TokenFrequencies:
    """`counts` (vocab_size,): how often each token occurs."""
    used = np.flatnonzero(counts)
    ordered = np.sort(counts[used])[::-1]
    places = np.unique(np.geomspace(1, max(1, len(ordered)), POINTS).round().astype(np.int64))[: len(ordered)]
    sizes: dict[int, int] = {}
    for index in used.tolist():
        if index != tokenizer.end_of_text:
            size = len(tokenizer.decode_bytes([index]))
            sizes[size] = sizes.get(size, 0) + int(counts[index])
    total, running = int(ordered.sum()), np.cumsum(ordered)
    return TokenFrequencies(
        tokenizer=tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        vocabulary_used=len(used),
        tokens=total,
        ranks=[(int(place), int(ordered[place - 1])) for place in places],
        lengths=sorted(sizes.items()),
        coverage=[(share, int(np.searchsorted(running, share * total)) + 1) for share in SHARES] if total else [],
    )
