"""What a training reads of its data, as its settings say: one text, a mixture, or chapters that may still be made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nanogpt.config import Config
from nanogpt.data.augmentation import Augmentation
from nanogpt.data.chapters import Chapters, pause
from nanogpt.data.data_loader import Loader, Samples
from nanogpt.data.mixture import Mixture
from nanogpt.data.shard_file import Tokens
from nanogpt.data.shards import open_sources
from nanogpt.faults import UserError
from nanogpt.sources import own
from nanogpt.training.data_folder import DataFolder

LOOKED_AT = 1 << 22  # tokens in which a token between documents is looked for


def samples_of(data: DataFolder, config: Config, wait: Callable[[], None] = pause) -> Loader:
    """The samples of a training of `config`, a configuration that is completed. `wait`: as Chapters has it.

    Raises UserError where settings and data do not go together, and what opening the data raises.
    """
    block_size, settings, seed = config.model.block_size, config.data, config.training.seed
    loader: Loader
    if settings.mixture:
        loader = Mixture(_texts(data, config), [mixed.weight for mixed in settings.mixture], block_size, seed)
    elif data.manifest.chapters:
        loader = Chapters(data.path, block_size, seed, wait)
    else:
        loader = Samples(data.train.tokens, block_size, seed)
    if settings.token_dropout or settings.span_corruption:
        loader.augmentation = Augmentation(
            settings.token_dropout, settings.span_corruption, data.train.vocab_size, seed, data.tokenizer.end_of_text
        )
    return loader


def document_start(data: DataFolder, config: Config) -> int | None:
    """The token at which a document begins that is to see itself alone; None where documents see each other.

    Raises UserError where the data does not say where documents end.
    """
    if config.data.cross_documents:
        return None
    token = data.tokenizer.end_of_text
    if token is None or not (np.asarray(data.train.tokens[:LOOKED_AT]) == token).any():
        raise UserError(
            f"data.cross_documents: found false, but the tokens in {data.path} do not say where a document ends; "
            "prepare documents with a tokenizer that has an end-of-text token, such as bpe or gpt2"
        )
    return token


def _texts(data: DataFolder, config: Config) -> dict[str, Tokens]:
    """The texts of the mixture by name, in its order."""
    there = open_sources(data.path, "train")
    wanted = [source if source in there else own.name_of(source) for source in config.data.sources]
    if set(there) != set(wanted):
        found = f"has {', '.join(there)}" if there else "is not of a mixture"
        raise UserError(f"data.mixture: found {', '.join(wanted)}, but {data.path} {found}; prepare them together")
    if not data.manifest.complete:
        raise UserError(f"data.mixture: {data.path} is not complete yet; a mixture needs all of its texts")
    return {name: there[name] for name in wanted}
