"""Text from a trained model: a prompt goes in, pieces of text come out as they are made."""

import codecs
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from nanogpt.faults import UserError
from nanogpt.inference.sampling import check_options, sample
from nanogpt.model.attention import KVCache
from nanogpt.model.gpt import GPT
from nanogpt.weights.folders import open_folder


class Engine:
    """A model and its tokenizer, ready to generate on `device`. The model is moved there and set to evaluation.

    `context`: tokens that it looks back on at most, where that is less than its block_size.
    """

    def __init__(self, model: GPT, tokenizer, device: str = "cpu", context: int | None = None):
        self.model = model.to(device).eval()
        self.context = context or model.config.block_size
        self.tokenizer = tokenizer
        self.device = device

    @classmethod
    def from_folder(cls, folder: Path | str, device: str = "cpu") -> "Engine":
        """Open an exported folder, or the best checkpoint of a training folder.

        Raises UserError naming what is missing, CorruptFileError when a file is not what was written.
        """
        return cls(*open_folder(Path(folder)), device)

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

        Ends after `max_new_tokens` (half a character there is left out), at the tokenizer's end of text, or before
        the first of `stop`. An empty prompt stands for the end of a text, or a new line where the tokenizer has none.
        The same seed gives the same text; None draws a fresh one.
        Raises UserError for an option out of range and for a prompt that is not text.
        """
        check_options(temperature, top_k, top_p, seed)
        check_prompt(prompt)
        self.tokenizer.encode(prompt)  # refuses, before the first piece, a character that an alphabet lacks
        generator = torch.Generator()
        generator.seed() if seed is None else generator.manual_seed(seed)
        tokens = self._tokens(
            prompt, max_new_tokens, lambda logits: sample(logits, generator, temperature, top_k, top_p)
        )
        stops = [stop] if isinstance(stop, str) else stop or []
        return _until(stops, self._text(tokens))

    def complete(self, prompt: str, **options) -> str:
        """The text that follows `prompt`, whole; the options are generate()'s."""
        return "".join(self.generate(prompt, **options))

    def _tokens(self, prompt: str, count: int, choose) -> Iterator[int]:
        """New tokens, one at a time.

        Past the context: when the window is full, its newer half is read again as a new window and decoding goes on
        behind it. So at least half a window is always seen, and a token costs two positions of work on average.
        """
        window = self.tokenizer.encode(prompt).tolist() or self._start()
        window = window[-self.context :]
        cache = KVCache(self.model.config, max_len=self.context, device=self.device)
        unread = window
        for _ in range(count):
            token = choose(self.read(unread, cache))
            if token == self.tokenizer.end_of_text:
                return
            yield token
            window = [*window, token]
            unread = [token]
            if len(window) > self.context:
                window = window[-max(1, self.context // 2) :]
                unread = window
                cache.reset()

    @torch.inference_mode()
    def read(self, tokens: list[int], cache: KVCache) -> Tensor:
        """Append `tokens` to what the cache holds; the logits (vocab_size,) float32, on the CPU, of what comes next."""
        x = self.model.hidden(torch.tensor([tokens], device=self.device), cache)  # (1, T, n_embd)
        return self.model.head(x[0, -1]).float().cpu()

    def _start(self) -> list[int]:
        if self.tokenizer.end_of_text is not None:
            return [self.tokenizer.end_of_text]
        return self.tokenizer.encode("\n").tolist() if self.tokenizer.reads("\n") else [0]

    def _text(self, tokens: Iterator[int]) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in tokens:
            if piece := decoder.decode(self.tokenizer.decode_bytes([token])):
                yield piece


def check_prompt(prompt: str) -> None:
    """Raises UserError for bytes of a command line that are no UTF-8: Python carries them as lone surrogates."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"prompt: its character {error.start + 1} is not text in UTF-8") from None


def _until(stops: list[str], pieces: Iterator[str]) -> Iterator[str]:
    """`pieces` up to the first of `stops`; what may be the beginning of one waits for what follows."""
    waiting = ""
    for piece in pieces:
        waiting += piece
        found = [waiting.index(stop) for stop in stops if stop in waiting]
        if found:
            if text := waiting[: min(found)]:
                yield text
            return
        ready = len(waiting) - max((_begun(stop, waiting) for stop in stops), default=0)
        if ready:
            yield waiting[:ready]
        waiting = waiting[ready:]
    if waiting:
        yield waiting


def _begun(stop: str, text: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
