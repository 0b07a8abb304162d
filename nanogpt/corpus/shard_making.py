"""The second pass: the documents of one split in some pieces become one shard of token ids.

A pure function of the decisions and the tokenizer; whole or absent, with a note of what it is.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nanogpt import durable
from nanogpt.corpus.deciding import Decisions, read_decisions
from nanogpt.corpus.splitting import TEST, TRAIN, VAL
from nanogpt.data.shard_file import Ids, dtype_of, write_shard
from nanogpt.data.shards import FileDigest, count_tokens
from nanogpt.data.texts import DOCUMENT_SEPARATOR, SPLITS
from nanogpt.faults import CorruptFileError
from nanogpt.records import from_json, to_json
from nanogpt.results.text import TokenSplit
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer

SHARD_BYTES = 32 << 20  # of training text at least: 8 million tokens of GPT-2's, 16 MB
MOST_SHARDS = 4096  # of a corpus: a process may map 65,530 files
VERSION = 1


@dataclass(frozen=True)
class ShardTask:
    """One shard: the documents of `split` in the pieces [first, end)."""

    file: str
    split: int
    first: int
    end: int


@dataclass(frozen=True)
class Made:
    """What a shard is. `unknown`: characters outside the vocabulary, where those were looked for."""

    file: FileDigest
    size: TokenSplit
    unknown: int


def planned(decisions: Decisions, shard_bytes: int) -> list[ShardTask]:
    """All shards of a corpus: val and test, and train cut where a source ends and where enough text is together."""
    pieces = len(decisions.index)
    sizes, sources = decisions.sizes(TRAIN)[:, 2], decisions.index[:, 1]
    enough = max(shard_bytes, int(sizes.sum()) // MOST_SHARDS)
    borders, together = [0], 0
    for piece in range(pieces):
        if borders[-1] < piece and (together >= enough or sources[piece] != sources[piece - 1]):
            borders.append(piece)
            together = 0
        together += int(sizes[piece])
    tasks = [ShardTask(f"{SPLITS[split]}.bin", split, 0, pieces) for split in (VAL, TEST)]
    if len(borders) == 1:
        return [*tasks, ShardTask("train.bin", TRAIN, 0, pieces)]
    ends = [*borders[1:], pieces]
    return tasks + [
        ShardTask(f"train-{number:05d}.bin", TRAIN, first, end)
        for number, (first, end) in enumerate(zip(borders, ends, strict=True))
    ]


@dataclass(frozen=True)
class ShardMaker:
    """What makes the shards of a data folder, in any process, with the tokenizer that lies there."""

    pieces_folder: Path
    out_folder: Path
    plan: str  # the digest of all that decides the ids
    look_for_unknown: bool

    def __call__(self, task: ShardTask) -> Made:
        """Raises CorruptFileError where what the first pass wrote is not there."""
        if (before := self._done(task)) is not None:
            return before
        tokenizer, decisions = _opened(self.out_folder, self.pieces_folder, self.plan)
        unknown = 0
        if self.look_for_unknown:
            unknown = sum(tokenizer.unknown_in(text).total() for text, _ in _texts(decisions, task))
        tokens = self._tokens(tokenizer, decisions, task)
        path = self.out_folder / task.file
        write_shard(path, tokens, tokenizer.vocab_size, tokenizer.digest)
        with durable.replacing(self._counts_file(task.file)) as file:
            counts = count_tokens(tokens, tokenizer.vocab_size)
            used = np.flatnonzero(counts)
            np.savez_compressed(file, used=used, counts=counts[used])
        _, characters, size, _, _ = decisions.sizes(task.split)[task.first : task.end].sum(axis=0).tolist()
        between = int(decisions.ends(task.split)[task.first : task.end].sum()) * len(DOCUMENT_SEPARATOR)
        made = Made(
            FileDigest(path.stat().st_size, durable.sha256_file(path)),
            TokenSplit(len(tokens), size + between, characters + between), unknown,
        )  # fmt: skip
        durable.write_note(self._note(task.file), {"plan": self.plan, "made": to_json(made)})
        return made

    def counts(self, task: ShardTask, vocab_size: int) -> npt.NDArray[np.int64]:
        """(vocab_size,): how often each id occurs in a shard that was made."""
        counts, path = np.zeros(vocab_size, np.int64), self._counts_file(task.file)
        try:
            with np.load(path) as found:
                counts[found["used"]] = found["counts"]
        except (OSError, EOFError, KeyError, IndexError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            durable.remove(path)
            raise CorruptFileError(f"{path} is damaged; it is removed, and the next start makes it again") from error
        return counts

    @property
    def notes_folder(self) -> Path:
        return self.out_folder / ".making"

    def _tokens(self, tokenizer: Tokenizer, decisions: Decisions, task: ShardTask) -> Ids:
        """The ids of the texts, with what ends one behind each."""
        kind, end = dtype_of(tokenizer.vocab_size), separator(tokenizer)
        found: list[Ids] = []
        for text, ends in _texts(decisions, task):
            found.append(tokenizer.encode(text).astype(kind))
            if ends:
                found.append(end.astype(kind))
        return np.concatenate(found) if found else np.zeros(0, kind)

    def _done(self, task: ShardTask) -> Made | None:
        note, _ = durable.read_note(self._note(task.file))
        try:
            if note is None or note["plan"] != self.plan or not self._counts_file(task.file).is_file():
                return None
            made = from_json(Made, note["made"])
            return made if durable.sha256_file(self.out_folder / task.file) == made.file.sha256 else None
        except (KeyError, OSError, ValueError):
            return None

    def _note(self, name: str) -> Path:
        return self.notes_folder / f"{name}.json"

    def _counts_file(self, name: str) -> Path:
        return self.notes_folder / f"{name}.counts.npz"


def separator(tokenizer: Tokenizer) -> npt.NDArray[np.uint32]:
    """What stands behind each document: the end of a text, or an empty line where no token means that."""
    if tokenizer.end_of_text is not None:
        return np.array([tokenizer.end_of_text], np.uint32)
    return tokenizer.encode(DOCUMENT_SEPARATOR)


def _texts(decisions: Decisions, task: ShardTask) -> Iterator[tuple[str, bool]]:
    there = np.flatnonzero(decisions.sizes(task.split)[task.first : task.end, 0]) + task.first
    for piece in there.tolist():
        yield from decisions.texts(piece, task.split)


@lru_cache(1)
def _opened(out_folder: Path, pieces_folder: Path, plan: str) -> tuple[Tokenizer, Decisions]:
    """Read once a process and plan: GPT-2's vocabulary takes a tenth of a second."""
    decisions = read_decisions(pieces_folder)
    if decisions is None:
        raise CorruptFileError(f"{pieces_folder} does not hold what the first pass over the text wrote")
    return load_tokenizer(out_folder), decisions
