"""Text from a trained model: prompts go in, pieces of text come out as they are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from nanogpt.decoders.opening import Notify, open_decoder
from nanogpt.decoders.protocol import Decoder, Precision
from nanogpt.faults import UserError
from nanogpt.inference.batch import Batch, Writing
from nanogpt.inference.options import Changes, Options, Piece
from nanogpt.inference.prefix_cache import PrefixCache
from nanogpt.inference.search import beam_search
from nanogpt.inference.speculation import speculate
from nanogpt.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:  # torch takes a second or more to import, and other decoders do without it
    from torch import nn

REMEMBERED = 256 << 20  # bytes: three whole contexts of GPT-2 124M


class Engine:
    """A decoder and its tokenizer, ready to write.

    `context`: tokens that a text looks back on at most, where that is less than the model's block_size. Past it the
    window slides: its newer half is read again. `remembered`: bytes of what was read of texts that have ended, for
    prompts that begin like one of them.
    """

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, context: int | None = None, remembered: int = 0):
        self.decoder, self.tokenizer = decoder, tokenizer
        self.context = context or decoder.config.block_size
        self.prefixes = PrefixCache(decoder.config, remembered)
        self.draft: Decoder | None = None  # a smaller model of the same tokenizer, to guess what stream() writes

    @classmethod
    def of_model(
        cls, model: nn.Module, tokenizer: Tokenizer, device: str = "cpu", context: int | None = None
    ) -> Engine:
        """Write with a GPT that is in memory. It is moved to `device` and set to evaluation."""
        from nanogpt.decoders.torch_decoder import TorchDecoder  # torch: only here
        from nanogpt.model.gpt import GPT

        assert isinstance(model, GPT)
        return cls(TorchDecoder(model, device), tokenizer, context)

    @classmethod
    def from_folder(
        cls,
        folder: Path | str,
        device: str = "cpu",
        backend: str = "auto",
        notify: Notify = lambda message: None,
        precision: Precision = "float32",
        draft: Path | str | None = None,
    ) -> Engine:
        """Open an exported folder, or the best checkpoint of a training folder; as open_decoder().

        Of texts that have ended, up to REMEMBERED bytes stay. draft: a smaller model of the same tokenizer, which
        guesses what generate() writes (nanogpt.inference.speculation); the text stays the same.
        """
        opened = open_decoder(folder, device, backend, notify, precision)
        engine = cls(opened.decoder, opened.tokenizer, remembered=REMEMBERED)
        if draft is not None:
            smaller = open_decoder(draft, device, backend, notify, precision)
            of_both = [(model.tokenizer.digest, model.decoder.config.vocab_size) for model in (opened, smaller)]
            if of_both[0] != of_both[1]:
                raise UserError(f"{draft}: has another tokenizer than {folder}, so it cannot guess for it")
            engine.draft = smaller.decoder
        return engine

    def generate(self, prompt: str, **changes: Unpack[Changes]) -> Iterator[str]:
        """Pieces of the text that follows `prompt`, each of whole characters. `changes`: Options by name.

        The prompt is normalised as the training text was.
        Ends after `max_new_tokens` (half a character there is left out), at the tokenizer's end of text, or before
        the first of `stop`. An empty prompt stands for the end of a text, or a new line where the tokenizer has none.
        The same seed gives the same text; None draws a fresh one.
        Raises UserError for an option out of range and for a prompt that is not text, NonFiniteError when the model
        computes NaN.
        """
        return (piece.text for piece in self.stream(prompt, Options(**changes)) if piece.text)

    def complete(self, prompt: str, **changes: Unpack[Changes]) -> str:
        """The text that follows `prompt`, whole; as generate()."""
        return "".join(self.generate(prompt, **changes))

    def complete_batch(
        self, prompts: Sequence[str], seeds: Sequence[int | None] | None = None, **changes: Unpack[Changes]
    ) -> list[str]:
        """The texts that follow prompts of any lengths, written together; as complete() of each with its seed.

        Raises ValueError unless there are as many seeds as prompts.
        """
        options = Options(**changes)
        of_each = [
            (prompt, replace(options, seed=seed))
            for prompt, seed in zip(prompts, seeds or [options.seed] * len(prompts), strict=True)
        ]
        if options.beams > 1:
            return ["".join(piece.text for piece in self.stream(*text)) for text in of_each]
        batch = Batch(self)
        writings = [batch.add(*text)[0] for text in of_each]
        return self._whole(batch, writings)

    def samples(self, prompt: str, count: int, options: Options) -> list[str]:
        """`count` texts that follow `prompt`, which is read once; the seeds are seed, seed + 1, ..."""
        batch = Batch(self)
        return self._whole(batch, batch.add(prompt, options, count))

    def stream(self, prompt: str, options: Options) -> Iterator[Piece]:
        """generate(), with what is known of each piece: one for each token, or a single one of many beams."""
        if options.beams > 1:
            Writing(self, prompt, options)  # checked before the first piece is asked for, as below
            return self._searched(prompt, options)
        if self.draft is not None:
            return speculate(self, self.draft, Writing(self, prompt, options))
        batch = Batch(self)
        batch.add(prompt, options)
        return (piece for _, piece in self._pieces(batch))

    def _searched(self, prompt: str, options: Options) -> Iterator[Piece]:
        yield beam_search(self, prompt, options)

    def _whole(self, batch: Batch, writings: list[Writing]) -> list[str]:
        texts: dict[int, list[str]] = {id(writing): [] for writing in writings}
        for writing, piece in self._pieces(batch):
            texts[id(writing)].append(piece.text)
        return ["".join(texts[id(writing)]) for writing in writings]

    def _pieces(self, batch: Batch) -> Iterator[tuple[Writing, Piece]]:
        """All pieces of `batch` until every text has ended. Raises NonFiniteError."""
        while batch:
            for writing, piece in batch.step():
                if writing.error is not None:
                    raise writing.error
                yield writing, piece
