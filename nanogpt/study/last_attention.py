"""What the last token of a text looks at: its attention to every token, by layer and head."""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.weights.folders import open_folder, source_at


@torch.no_grad()
def last_attention(model: GPT, tokens: Tensor) -> Tensor:
    """tokens (T,) -> weights (n_layer, n_head, T), float32 on the CPU, each head's a distribution over the tokens.

    They are those by which the last token, before it says what comes next, mixes the values. Raises ValueError for no
    token, or more than block_size.
    """
    T = len(tokens)
    if not 0 < T <= model.config.block_size:
        raise ValueError(f"expected 1 to {model.config.block_size} tokens, found {T}")
    with model.traced(keep=lambda weights: weights[0, :, -1].clone()) as trace:  # (n_head, T)
        model.hidden(tokens[None])
    return torch.stack(trace.attention).cpu()


def attention_of_text(folder: Path, text: str) -> tuple[list[str], Tensor]:
    """The text's last tokens, block_size at most, as a person reads them, and last_attention() over them.

    The model that was asked last stays open. Raises UserError when none can be opened at `folder` or the text has no
    token, CorruptFileError when its files are damaged.
    """
    written = tuple(file.stat().st_mtime_ns for file in source_at(folder).files())
    model, tokenizer = _opened(folder, written)
    ids = [int(token) for token in tokenizer.encode(tokenizer.normalise(text))][-model.config.block_size :]
    if not ids:
        raise UserError("text: is empty; attention needs at least one token")
    return [tokenizer.decode([token]) for token in ids], last_attention(model, torch.tensor(ids))


@lru_cache(maxsize=1)
def _opened(folder: Path, written: tuple[int, ...]) -> tuple[GPT, Tokenizer]:
    """The model as it was `written` at these times: a training that goes on writes another."""
    return open_folder(folder)
