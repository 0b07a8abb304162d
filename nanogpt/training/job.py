"""What is to be trained: settings and data that go together, checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt.config import Config
from nanogpt.data.shards import identity, open_split, verify
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.results import TrainingData
from nanogpt.sources.catalogue import recorded_name
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.training.progress import trajectory
from nanogpt.training.record import tracking

CHECKED_BYTES = 256 << 20  # of data, before each checkpoint: 0.5 s a time (0.5 GB/s); tiny Shakespeare takes 3 ms


class DataFolder:
    """The tokenised data in the folder `path`: its splits and its tokenizer."""

    def __init__(self, path: Path):
        """Raises UserError when it is no data folder, CorruptFileError when a file is not what was written."""
        self.manifest = verify(path)
        self.path = path
        self.train, self.val = open_split(path, "train"), open_split(path, "val")
        self.tokenizer = load_tokenizer(path)
        self.sha256 = identity(path)

    @property
    def record(self) -> TrainingData:
        """What the folder of a model keeps of it."""
        return TrainingData(self.sha256, self.manifest.source_sha256, self.manifest.splits)

    def check(self) -> None:
        """Raise CorruptFileError when the data has changed since it was opened: most wrong ids train without a word.

        Data of more than CHECKED_BYTES is checked only when it is opened.
        """
        if self.train.tokens.nbytes + self.val.tokens.nbytes > CHECKED_BYTES:
            return
        try:
            verify(self.path)
        except UserError as error:  # it was a data folder at the start
            raise CorruptFileError(str(error)) from error
        if identity(self.path) != self.sha256:
            raise CorruptFileError(f"{self.path} was written anew while it was learned from")


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
