"""The data of a training, opened and checked."""

from __future__ import annotations

import time
from pathlib import Path

from nanogpt.data.shards import Manifest, identity, open_split, read_manifest, verify
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.results.training import TrainingData
from nanogpt.tokenizers.loading import load_tokenizer

LOOKS, SECONDS_BETWEEN_LOOKS = 20, 0.5  # at a folder that is being made
CHECKED_BYTES = 256 << 20  # of data, before each checkpoint: 0.5 s a time (0.5 GB/s); tiny Shakespeare takes 3 ms


class DataFolder:
    """The tokenised data in the folder `path`: its splits and its tokenizer."""

    def __init__(self, path: Path):
        """Raises UserError when it is no data folder, CorruptFileError when a file is not what was written."""
        self.manifest = _verified(path)
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
            _verified(self.path)
        except UserError as error:  # it was a data folder at the start
            raise CorruptFileError(str(error)) from error
        if identity(self.path) != self.sha256:
            raise CorruptFileError(f"{self.path} was written anew while it was learned from")


def _verified(path: Path) -> Manifest:
    """verify(), again where the folder is being made: its files and its manifest are not replaced at one moment."""
    for _ in range(LOOKS):
        is_complete = read_manifest(path).complete
        try:
            return verify(path)
        except CorruptFileError:
            if is_complete:
                raise
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return verify(path)
