"""Text from a trained model: prompts go in, pieces of text come out as they are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nanogpt.data.tokenizer import Tokenizer
from nanogpt.faults import NonFiniteError
from nanogpt.inference.decoding import decode_one_token, prefill
from nanogpt.inference.prompts import normalised
from nanogpt.inference.sampling import NOT_A_TOKEN, check_options, sample
from nanogpt.inference.text_stream import TextStream
from nanogpt.model.attention import KVCache
from nanogpt.model.gpt import GPT
from nanogpt.weights.folders import open_folder


@dataclass(frozen=True)
class Options:
    """How all texts of a batch are written."""

    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


@dataclass(eq=False)
class Row:
    """One text of a batch. `window`: the tokens that the model looks back on, newest last."""

    window: list[int]
    generator: torch.Generator
    text: TextStream


class Engine:
    """A model and its tokenizer, ready to generate on `device`. The model is moved there and set to evaluation.

    `context`: tokens that it looks back on at most, where that is less than its block_size.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, device: str = "cpu", context: int | None = None):
        self.model = model.to(device).eval()
        self.context = context or model.config.block_size
        self.tokenizer = tokenizer
        self.device = device

    @classmethod
    def from_folder(cls, folder: Path | str, device: str = "cpu") -> Engine:
        """Open an exported folder, or the best checkpoint of a training folder.

        Raises UserError naming what is missing, CorruptFileError when a file is not what was written.
        """
        return cls(*open_folder(folder), device)

    def generate(
        self,
        prompt: str,
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | list[str] | None = None,
    ) -> Iterator[str]:
        """Pieces of the text that follows `prompt`, each of whole characters.

        The prompt is normalised as the training text was.
        Ends after `max_new_tokens` (half a character there is left out), at the tokenizer's end of text, or before
        the first of `stop`. An empty prompt stands for the end of a text, or a new line where the tokenizer has none.
        The same seed gives the same text; None draws a fresh one.
        Raises UserError for an option out of range and for a prompt that is not text, NonFiniteError when the model
        computes NaN.
        """
        options = Options(max_new_tokens, temperature, top_k, top_p, stop)
        rows = [self._row(prompt, seed, options)]
        return (piece for _, piece in self._write(rows, options))

    def complete(
        self,
        prompt: str,
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | list[str] | None = None,
    ) -> str:
        """The text that follows `prompt`, whole; as generate()."""
        return "".join(self.generate(prompt, max_new_tokens, temperature, top_k, top_p, seed, stop))

    def complete_batch(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seeds: Sequence[int | None] | None = None,
        stop: str | list[str] | None = None,
    ) -> list[str]:
        """The texts that follow prompts of any lengths, written together; as complete() of each with its seed.

        Raises ValueError unless there are as many seeds as prompts.
        """
        options = Options(max_new_tokens, temperature, top_k, top_p, stop)
        rows = [
            self._row(prompt, seed, options)
            for prompt, seed in zip(prompts, seeds or [None] * len(prompts), strict=True)
        ]
        texts = {id(row): "" for row in rows}
        for row, piece in self._write(rows, options):
            texts[id(row)] += piece
        return list(texts.values())

    def _row(self, prompt: str, seed: int | None, options: Options) -> Row:
        """A text that begins with `prompt`. Raises UserError."""
        check_options(options.temperature, options.top_k, options.top_p, seed)
        window = self.tokenizer.encode(normalised(prompt, self.tokenizer)).tolist() or self._start()
        generator = torch.Generator(self.device)
        generator.seed() if seed is None else generator.manual_seed(seed)
        return Row(window[-self.context :], generator, TextStream(self.tokenizer, options.stops))

    def _start(self) -> list[int]:
        """What stands for an empty prompt."""
        if self.tokenizer.end_of_text is not None:
            return [self.tokenizer.end_of_text]
        return [int(token) for token in self.tokenizer.encode("\n")] if self.tokenizer.reads("\n") else [0]

    def _write(self, rows: list[Row], options: Options) -> Iterator[tuple[Row, str]]:
        """Pieces of all texts as they come. A text that has ended leaves the batch."""
        if not rows or options.max_new_tokens < 1:
            return
        cache, logits = self._read([row.window for row in rows], self.context)  # logits (B, vocab_size)
        for left in reversed(range(options.max_new_tokens)):
            generators = [row.generator for row in rows]
            tokens = sample(logits, generators, options.temperature, options.top_k, options.top_p)  # (B,)
            for row, token in zip(rows, tokens.tolist(), strict=True):  # all that is copied from the device
                if token == NOT_A_TOKEN:
                    raise NonFiniteError("the model computes NaN or infinity instead of the next token")
                row.window.append(token)
                if piece := row.text.write(token):
                    yield row, piece
            unfinished = [index for index, row in enumerate(rows) if not row.text.ended]
            if not unfinished or not left:
                break
            if len(unfinished) < len(rows):
                rows, tokens = [rows[index] for index in unfinished], tokens[unfinished]
                cache.keep(unfinished)
            logits = self._next_logits(rows, tokens, cache)
        for row in rows:
            if not row.text.ended and (piece := row.text.rest()):
                yield row, piece

    def _read(self, windows: list[list[int]], max_len: int) -> tuple[KVCache, Tensor]:
        """A cache of max_len that holds the windows, and the logits (B, vocab_size) of what comes next."""
        lengths = [len(window) for window in windows]
        padded = [[*window, *[0] * (max(lengths) - len(window))] for window in windows]
        cache = KVCache(self.model.config, len(windows), max_len, self.device)
        return cache, prefill(self.model, torch.tensor(padded, device=self.device), cache, lengths)

    @torch.inference_mode()
    def _next_logits(self, rows: list[Row], tokens: Tensor, cache: KVCache) -> Tensor:
        """The logits (B, vocab_size) behind each row's newest token (B,).

        Past the context: when a window is full, its newer half is read again as a new window and decoding continues
        behind it. So at least half a window is always seen, and a token costs two positions of work on average.
        """
        full = [index for index, row in enumerate(rows) if len(row.window) > self.context]
        if not full:
            return decode_one_token(self.model, tokens, cache)
        half = max(1, self.context // 2)
        for index in full:
            rows[index].window = rows[index].window[-half:]
        halves, of_full = self._read([rows[index].window for index in full], half)
        cache.replace(full, halves)
        if len(full) == len(rows):
            return of_full
        logits = decode_one_token(self.model, tokens, cache)  # the full rows read their newest token once too often ...
        logits[full] = of_full
        cache.lengths = [length - (index in full) for index, length in enumerate(cache.lengths)]  # ... and forget it
        return logits
