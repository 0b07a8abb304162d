"""The configuration that a command's arguments name: what arguments.add_model() has added, read."""

from __future__ import annotations

import argparse

from nanogpt.config import Config, load_config
from nanogpt.tokenizers.vocabulary import likely_size


def model_config(arguments: argparse.Namespace) -> Config:
    """The configuration that these arguments name, with a vocabulary. Raises UserError."""
    config = load_config(arguments.config, arguments.set)
    if config.training.init_from is not None:
        from nanogpt.training.initial_weights import config_with_shape_of  # torch: most models begin from scratch

        config = config_with_shape_of(config, config.training.init_from)
    if arguments.device:
        config = config.with_changes({"device.type": arguments.device})
    likely = likely_size(config.data.tokenizer, config.data.bpe_vocab_size)
    return config.with_changes({"model.vocab_size": arguments.vocab or config.model.vocab_size or likely})
