"""Samples of a text that lies in shards, chapter by chapter: training begins while later shards are made."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from nanogpt.data.data_loader import Loader, Samples, windows_in
from nanogpt.data.shard_file import Ids, Joined
from nanogpt.data.shards import check_fits, identity, open_split, parts_of, read_manifest
from nanogpt.faults import CorruptFileError, UserError

TAG = 0xC4A  # with it in their key, these numbers are no others that come from a training's seed
SECONDS_BETWEEN_LOOKS = 0.5
PATIENCE = 3600.0  # seconds without a further chapter, after which nobody is expected to make one


def pause() -> None:
    time.sleep(SECONDS_BETWEEN_LOOKS)


class Chapters(Loader):
    """Of a data folder whose manifest has chapters: an epoch reads them in order, the windows of each shuffled.

    So the order does not depend on when a shard came: a training of the finished folder sees the same samples.
    """

    def __init__(self, folder: Path, block_size: int, seed: int, wait: Callable[[], None] = pause):
        """`wait` is called again and again while the chapter of a sample is missing: it shows life, sleeps, or raises.

        Raises UserError for a folder that is complete and too short, and what open_split() raises.
        """
        self.folder, self.block_size, self.seed, self.wait = folder, block_size, seed, wait
        self._identity = identity(folder)
        self.chapters = self._look()
        self._read: tuple[int, Samples] | None = None  # the chapter that was read last

    def window(self, index: int) -> Ids:
        epoch, chapter, position = self._place(index)
        if self._read is None or self._read[0] != chapter:
            own_seed = int(np.random.SeedSequence([self.seed, chapter, TAG]).generate_state(1)[0])
            self._read = chapter, Samples(self.chapters[chapter], self.block_size, own_seed)
        samples = self._read[1]
        return samples.window(epoch * samples.windows_per_epoch + position)

    def is_ready(self, first_index: int, count: int) -> bool:
        return self.complete or first_index + count <= self._ends[-1]

    def _place(self, index: int) -> tuple[int, int, int]:
        """Epoch, chapter and place in it of sample `index`; waits for the chapter."""
        if not self.is_ready(index, 1):
            self._wait_for(index)
        epoch, position = divmod(index, int(self._ends[-1]))
        chapter = int(np.searchsorted(self._ends, position, side="right"))
        return epoch, chapter, position - int(self._ends[chapter - 1] if chapter else 0)

    def _wait_for(self, index: int) -> None:
        began = time.monotonic()
        while not self.is_ready(index, 1):
            self.wait()
            before, self.chapters = self._ends[-1], self._look()
            if self._ends[-1] > before:
                began = time.monotonic()
            if time.monotonic() - began > PATIENCE:
                raise UserError(
                    f"{self.folder}: is not complete, and no shard was added for {PATIENCE / 60:.0f} minutes; "
                    "make the data again with nanogpt prepare, which continues where it stopped"
                )

    def _look(self) -> list[Joined]:
        """The chapters that are there now. Raises CorruptFileError where the folder has other data than before."""
        manifest, train = read_manifest(self.folder), open_split(self.folder, "train").tokens
        if identity(self.folder) != self._identity:
            raise CorruptFileError(f"{self.folder} was written anew while it was learned from")
        parts, sizes = parts_of(train), manifest.chapters or []
        if min(sizes, default=0) < 1 or (manifest.complete and sum(sizes) != len(parts)):
            raise CorruptFileError(f"{self.folder}: its chapters are not those of its {len(parts)} shards")
        shards = iter(parts)
        chapters = [Joined(list(islice(shards, size))) for size in sizes]
        self._ends = np.cumsum([windows_in(len(chapter), self.block_size) for chapter in chapters])
        self.complete = manifest.complete
        if self.complete and not self._ends[-1]:
            check_fits(max(map(len, chapters)), self.block_size)
        return chapters
