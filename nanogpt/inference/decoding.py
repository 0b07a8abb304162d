"""The two passes of decoding, over a batch: read the prompts at once, then one token of each text at a time.

Pure functions with gpt-fast's names. What they give stays on the model's device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanogpt.model.attention import KVCache
from nanogpt.model.gpt import GPT


@torch.inference_mode()
def prefill(model: GPT, tokens: Tensor, cache: KVCache, lengths: Sequence[int] | None = None) -> Tensor:
    """Read prompts into an empty `cache`: tokens (B, T) int64 -> logits (B, vocab_size) float32 of what comes next.

    lengths: tokens of each prompt, where they differ; any token pads the end of the shorter ones.
    """
    hidden = model.hidden(tokens, cache)  # (B, T, n_embd)
    B, T, _ = hidden.shape
    cache.lengths = [T] * B if lengths is None else list(lengths)
    last = torch.tensor(cache.lengths, device=hidden.device) - 1  # (B,)
    logits: Tensor = model.head(hidden[torch.arange(B, device=hidden.device), last])
    return logits.float()


@torch.inference_mode()
def decode_one_token(model: GPT, tokens: Tensor, cache: KVCache) -> Tensor:
    """Read the newest token of each text: tokens (B,) int64 -> logits (B, vocab_size) float32 of what comes next."""
    logits: Tensor = model.head(model.hidden(tokens[:, None], cache)[:, 0])
    return logits.float()
