"""What a study looks at: a model of any kind, with the tokenizer that says what its ids mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nanogpt.config import load_config
from nanogpt.data.shard_file import Ids
from nanogpt.data.shards import MOST_UNKNOWN
from nanogpt.faults import NonFiniteError, UserError
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.units import percent
from nanogpt.weights.folders import model_of
from nanogpt.weights.sources import source_at, tokenizer_of

RANDOM = "random:"  # before the path of a configuration: its model with the weights that a training begins with


@dataclass(frozen=True)
class Subject:
    """`name` is what a person typed. The model is on the CPU, in evaluation mode."""

    name: str
    model: GPT
    tokenizer: Tokenizer

    def tokens_of(self, text: str) -> Tensor:
        """The text's first tokens, block_size at most: (T,) int64. Raises as ids_of()."""
        return torch.from_numpy(self.ids_of(text)[: self.model.config.block_size].astype("int64"))

    def ids_of(self, text: str) -> Ids:
        """All tokens of the text, (T,).

        Raises UserError when there is none, and when more than a tenth of the text is outside the vocabulary: the
        model never saw such a text.
        """
        text = self.tokenizer.normalise(text)
        unknown = self.tokenizer.unknown_in(text).total()
        if unknown > MOST_UNKNOWN * len(text):
            raise UserError(
                f"the text: {unknown:,} of its {len(text):,} characters are outside the vocabulary of {self.name}, "
                f"at most {percent(MOST_UNKNOWN, 0)} may be; it is not of the kind that this model knows"
            )
        ids = self.tokenizer.encode(text)
        if not len(ids):
            raise UserError("the text: is empty; at least one character is needed")
        return ids

    def pieces(self, ids: Tensor) -> list[str]:
        """Each of `ids` (T,) as a person reads it."""
        return [self.tokenizer.decode([token]) for token in ids.tolist()]


def require_finite(logits: Tensor, name: str) -> None:
    """Raise NonFiniteError for logits of any shape that no probabilities come of."""
    if not logits.isfinite().all():
        raise NonFiniteError(f"{name}: computes NaN or infinity instead of logits; nothing can be seen in it")


def open_subject(place: str, data_folder: Path | None = None, text: str = "") -> Subject:
    """The model at `place`: a training folder or one of its checkpoints, a Hugging Face folder, nanoGPT's ckpt.pt, or
    `random:CONFIG.yaml`.

    One without a tokenizer (nanoGPT's, a random one) takes that of `data_folder`; a random one without either takes
    the characters of `text`. Raises UserError, CorruptFileError as nanogpt.weights.folders does.
    """
    if place.startswith(RANDOM):
        tokenizer = load_tokenizer(data_folder) if data_folder is not None else CharTokenizer(text)
        config = load_config(place.removeprefix(RANDOM))
        shape = config.model.model_copy(update={"vocab_size": tokenizer.vocab_size})
        return Subject(place, GPT(shape, config.training.seed).eval(), tokenizer)
    source = source_at(place)
    own = source.tokenizer()
    if own is not None or data_folder is None:
        return Subject(place, model_of(source), tokenizer_of(source))
    tokenizer = load_tokenizer(data_folder)
    if tokenizer.vocab_size > source.vocab_size:
        raise UserError(
            f"{data_folder}: has {tokenizer.vocab_size:,} tokens, the model at {place} only {source.vocab_size:,}"
        )
    return Subject(place, model_of(source), tokenizer)
