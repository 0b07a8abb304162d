"""Decoding with torch, on any of its devices: the decoder that is always there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nanogpt.config import ModelConfig
from nanogpt.decoders.protocol import Cache, Logits, check_lengths
from nanogpt.decoders.recorded_step import Record, RecordedStep
from nanogpt.decoders.torch_step import TorchStep
from nanogpt.model.attention import KVCache
from nanogpt.model.gpt import GPT


class TorchCache:
    """Keys and values on the model's device, a row for each text."""

    def __init__(self, config: ModelConfig, device: str):
        self.kept = KVCache(config, batch_size=0, device=device)

    @property
    def lengths(self) -> list[int]:
        return self.kept.lengths

    def select(self, rows: Sequence[int]) -> None:
        self.kept.keep(list(rows))

    def copied(self, rows: Sequence[int]) -> TorchCache:
        copy = TorchCache.__new__(TorchCache)
        copy.kept = self.kept.copied(list(rows))
        return copy

    def join(self, other: Cache) -> None:
        assert isinstance(other, TorchCache)
        self.kept.join(other.kept)

    def cut(self, lengths: Sequence[int]) -> None:
        self.kept.lengths = list(lengths)


class TorchDecoder:
    """`model`, moved to `device` and set to evaluation, as a Decoder.

    `record`: what records its steps, such as recorded_step.record_on(device); it takes some steps' time to save that
    of Python in each later one. `notify` gets a line if it cannot.
    """

    name = "torch"

    def __init__(
        self,
        model: GPT,
        device: str = "cpu",
        record: Record | None = None,
        notify: Callable[[str], None] = lambda message: None,
    ):
        self.model = model.to(device).eval()
        self.device = device
        self.one_token = TorchStep(self.model) if TorchStep.suits(self.model) else None
        self.recorded = RecordedStep(self.one_token, record, notify) if record and self.one_token else None

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def description(self) -> str:
        precision = str(self.model.token_embedding.weight.dtype).removeprefix("torch.")
        if self.recorded is not None and self.recorded.is_recorded:
            return f"torch on {self.device}, {precision}, recorded steps"
        return f"torch on {self.device}, {precision}, {torch.get_num_threads()} threads"

    def new_cache(self) -> TorchCache:
        return TorchCache(self.config, self.device)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], cache: Cache, *, every: bool = False) -> Logits:
        assert isinstance(cache, TorchCache)
        new = not cache.lengths
        if new:
            cache.kept = KVCache(self.config, len(prompts), device=self.device)
        counts = [len(prompt) for prompt in prompts]
        check_lengths(self.config, [held + count for held, count in zip(cache.lengths, counts, strict=True)])
        if new or len(set(counts)) == 1 == len(set(cache.lengths)):
            hidden = list(self._read_together(prompts, cache.kept))
        else:  # padding behind the shorter rows might not fit behind what the longer ones hold
            alone = [cache.kept.copied([row]) for row in range(len(prompts))]
            hidden = [self._read_together([tokens], row)[0] for tokens, row in zip(prompts, alone, strict=True)]
            cache.kept = alone[0]
            for row in alone[1:]:
                cache.kept.join(row)
        wanted = hidden if every else [of_row[-1:] for of_row in hidden]
        return self._logits(torch.cat(wanted))

    @torch.inference_mode()
    def step(self, tokens: npt.NDArray[np.int64], cache: Cache) -> Logits:
        assert isinstance(cache, TorchCache)
        check_lengths(self.config, [cache.kept.length + 1])
        if self.recorded is not None:
            return self.recorded.logits(tokens, cache.kept).cpu().numpy()
        newest = torch.from_numpy(tokens).to(self.device)  # (B,)
        if self.one_token is None:
            return self._logits(self.model.hidden(newest[:, None], cache.kept)[:, 0])
        return self._logits(self.one_token.hidden(newest, cache.kept))

    def _read_together(self, prompts: Sequence[Sequence[int]], cache: KVCache) -> list[Tensor]:
        """Rows of one length, or of an empty cache, read their tokens -> (T, n_embd) of each row's own."""
        longest = max(map(len, prompts))
        ends = [held + len(prompt) for held, prompt in zip(cache.lengths, prompts, strict=True)]
        padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
        hidden = self.model.hidden(torch.tensor(padded, device=self.device), cache)  # (B, longest, n_embd)
        cache.lengths = ends
        return [row[: len(prompt)] for row, prompt in zip(hidden, prompts, strict=True)]

    def _logits(self, hidden: Tensor) -> Logits:
        """hidden (N, n_embd) -> (N, vocab_size)."""
        logits: Tensor = self.model.head(hidden)
        return logits.float().cpu().numpy()
