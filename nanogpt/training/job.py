"""What is to be trained: settings and data that go together, checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt.config import Config
from nanogpt.faults import UserError
from nanogpt.sources.catalogue import recorded_name
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.training.data_folder import DataFolder
from nanogpt.training.progress import trajectory
from nanogpt.training.record import tracking
from nanogpt.training.samples import document_start, samples_of


@dataclass(frozen=True)
class TrainingJob:
    """A training that can begin, or continue, in `folder`."""

    config: Config  # with the shape and the vocabulary of the model
    data: DataFolder
    folder: Path
    max_seconds: float | None  # of training, over all sessions
    micro_batch: int | None  # None: what the session before settled on, else as configured
    identity: dict[str, Any]  # everything that decides the weights

    @classmethod
    def checked(
        cls,
        config: Config,
        data_folder: Path,
        model_folder: Path,
        max_seconds: float | None = None,
        micro_batch: int | None = None,
    ) -> TrainingJob:
        """Raises UserError for what a person mistook, CorruptFileError for damaged data."""
        tracking.require(config)
        data = DataFolder(data_folder)
        config = completed(config, data)
        samples_of(data, config)  # both raise where settings and data do not go together
        document_start(data, config)
        decisive = trajectory(config, data.sha256)
        return cls(config, data, model_folder, max_seconds or config.training.max_seconds, micro_batch, decisive)


def completed(config: Config, data: DataFolder) -> Config:
    """`config` with the shape of the weights that training.init_from names, if any, and with the data's vocabulary and
    name.

    Raises UserError when they do not go together.
    """
    stated = config.data.source if "source" in config.data.model_fields_set else None
    source = recorded_name(data.manifest.source, stated, data.manifest.source_sha256)
    config = _with_vocabulary(_with_initial_shape(config, data.tokenizer), data.train.vocab_size)
    return config.with_changes({"data.source": source})


def _with_initial_shape(config: Config, tokenizer: Tokenizer) -> Config:
    source = config.training.init_from
    if source is None:
        return config
    from nanogpt.training.initial_weights import check_vocabulary, config_with_shape_of  # most start from scratch

    check_vocabulary(source, tokenizer)
    return config_with_shape_of(config, source)


def _with_vocabulary(config: Config, vocab_size: int) -> Config:
    asked = config.model.vocab_size
    if asked is not None and asked < vocab_size:
        raise UserError(f"model.vocab_size: found {asked}, but the data has {vocab_size} different tokens")
    return config.with_changes({"model.vocab_size": asked or vocab_size})
