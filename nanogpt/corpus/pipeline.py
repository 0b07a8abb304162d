"""Text of any size in two passes over its pieces, in as many processes as there are, in little memory.

    prepare: every piece is scanned, then all documents are compared and divided    -> a text folder, with pieces/
    tokenise: the documents of each split become shards of ids                      -> a data folder

Each pass is a pure function of a piece and of what was decided before, so the bytes are the same whatever the number of
processes, and whoever is killed does only the pieces again that were under way.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nanogpt import durable
from nanogpt.config import DataConfig
from nanogpt.corpus import executors
from nanogpt.corpus.deciding import Decisions, decide, read_decisions
from nanogpt.corpus.executors import HERE, Report, Workers, no_report
from nanogpt.corpus.fates import Fate
from nanogpt.corpus.filters import Filters
from nanogpt.corpus.scanning import Scan, Scanned, ScanTask
from nanogpt.corpus.shard_making import SHARD_BYTES, Made, ShardMaker, ShardTask, planned, separator
from nanogpt.corpus.splitting import TRAIN
from nanogpt.data import shards
from nanogpt.data.shard_file import dtype_of
from nanogpt.data.shards import FileDigest, Manifest, ShardEntry, TokenizerIdentity
from nanogpt.data.texts import DOCUMENT_SEPARATOR, PIECES, SPLITS, STATISTICS
from nanogpt.faults import UserError
from nanogpt.records import to_json
from nanogpt.results.text import TextSplit, TextStatistics, TokenSplit
from nanogpt.sources import outputs
from nanogpt.sources.account import Account
from nanogpt.sources.cleaning import require_learnable
from nanogpt.sources.document import Piece
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.units import byte_size

SAMPLE_BYTES = 16 << 20  # of training text: for a tokenizer to learn from, and as train.txt for simple models
SAMPLED_PIECES = 64
PROBED_BYTES = 1 << 20  # of which the ids are counted before all are made
COMMONEST = 20  # characters


def prepare(
    pieces: Sequence[Piece],
    folder: Path,
    config: DataConfig,
    tokenizer: Tokenizer | None = None,
    workers: Workers = HERE,
    pulse: Callable[[], None] = lambda: None,
    report: Report = no_report,
) -> TextStatistics:
    """Write what pieces hold into the text folder `folder`: cleaned, filtered, without duplicates, divided.

    train.txt is a sample of the training text; `folder`/pieces has all of it, for tokenise(). `tokenizer`: one that
    exists already and has a normal form of its own. `pulse` is called every moment. Raises UserError where too little
    is left, OSError.
    """
    durable.remove(folder / STATISTICS)
    outputs.mark(folder)
    kept_in = (folder / PIECES).absolute()  # workers of a cluster have another current folder
    kept_in.mkdir(parents=True, exist_ok=True)
    _remove_abandoned([kept_in], workers)
    filters = Filters.from_config(config, tokenizer.normalise if tokenizer else None)
    scan = Scan.of(kept_in, pieces, config, filters, tokenizer.digest if tokenizer else "")
    tasks = [ScanTask(number, piece) for number, piece in enumerate(pieces)]
    scanned: list[Scanned] = []
    account, alphabet = Account(), Counter[str]()
    for found in executors.run(scan, tasks, workers, pulse):
        account.add(found.account)
        alphabet.update(found.alphabet)
        scanned.append(replace(found, alphabet={}, account=Account()))
        report("pieces read", len(scanned), len(tasks))
    _require_text(account, scanned)
    decisions = decide(scan, pieces, scanned, config, pulse)
    splits = _write_texts(folder, decisions)
    statistics = _described(decisions, account, alphabet, splits)
    require_learnable(statistics.characters, alphabet)
    durable.write_json(folder / STATISTICS, to_json(statistics, sparse=True))
    return statistics


def decisions_of(text_folder: Path) -> Decisions:
    """What was decided of a large text. Raises UserError where its pieces are not there, or not all."""
    decisions = read_decisions(text_folder / PIECES)
    if decisions is None or not (text_folder / STATISTICS).is_file():
        raise UserError(f"{text_folder / PIECES}: is not whole; prepare the text again")
    return decisions


def discard(text_folder: Path) -> None:
    """Remove what only another tokenizer would need. The text files stay."""
    if (text_folder / PIECES).is_dir():
        shutil.rmtree(text_folder / PIECES)


def sample(decisions: Decisions, limit: int = SAMPLE_BYTES) -> Iterator[str]:
    """Documents of the training text, at most about `limit` bytes: the first ones of pieces that are spread evenly."""
    return (text for text, _ in _sampled(decisions, limit))


def _sampled(decisions: Decisions, limit: int) -> Iterator[tuple[str, bool]]:
    """The same, as Decisions.texts() has them."""
    there = np.flatnonzero(decisions.sizes(TRAIN)[:, 0])
    if int(decisions.sizes(TRAIN)[:, 2].sum()) > limit and len(there) > SAMPLED_PIECES:
        there = there[np.linspace(0, len(there) - 1, SAMPLED_PIECES).astype(np.int64)]
    left = limit
    for place, piece in enumerate(there.tolist()):
        share = left // (len(there) - place)
        for text, ends in decisions.texts(piece, TRAIN):
            if share <= 0:
                break
            size = _bytes_in(text)
            share, left = share - size, left - size
            yield text, ends


def alphabet(text_folder: Path) -> str:
    """Every character of the text, and those that part documents."""
    return "".join(sorted({*str(durable.read_json(text_folder / STATISTICS)["alphabet"]), *DOCUMENT_SEPARATOR}))


def tokenise(
    text_folder: Path,
    tokenizer: Tokenizer,
    out_folder: Path,
    source: str | None = None,
    look_for_unknown: bool = False,
    workers: Workers = HERE,
    chapter: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    pulse: Callable[[], None] = lambda: None,
    report: Report = no_report,
) -> Manifest:
    """The data folder of a large text; its manifest, which is written last.

    Shards have `shard_bytes` of text or more. `chapter`: how many shards each chapter has, so that a training may begin
    when the first is there: the manifest then comes with it, and again with each other. Raises UserError where there is
    no room, CorruptFileError, OSError.
    """
    decisions = decisions_of(text_folder)
    tasks = planned(decisions, shard_bytes)
    trains = [task for task in tasks if task.split == TRAIN]
    chapters = None if chapter is None else _chapters(len(trains), chapter)
    plan = durable.digest([
        shards.VERSION, decisions.decided.sha256, tokenizer.digest, separator(tokenizer).tolist(), chapters,
        [(task.file, task.first, task.end) for task in tasks],
    ])  # fmt: skip
    maker = ShardMaker((text_folder / PIECES).absolute(), out_folder.absolute(), plan, look_for_unknown)
    _require_room(out_folder, decisions, tokenizer)
    _clear_for(out_folder, plan)
    _remove_abandoned([out_folder, maker.notes_folder], workers)
    files = tokenizer.save(out_folder)
    making = Making(out_folder, tokenizer, decisions, plan, chapters, source, files)
    for number, made in enumerate(executors.run(maker, tasks, workers, pulse)):
        making.add(tasks[number], made, maker)
        report("shards written", number + 1, len(tasks))
    manifest = making.write(complete=True)
    _clear(out_folder, maker.notes_folder, manifest)
    _remove_abandoned([text_folder / PIECES, out_folder], workers)  # of who still lived when this began
    return manifest


class Making:
    """A data folder whose shards come one after the other."""

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, decisions: Decisions, plan: str, chapters: list[int] | None,
        source: str | None, files: Iterable[Path],
    ):  # fmt: skip
        self.folder, self.tokenizer, self.plan, self.chapters = folder, tokenizer, plan, chapters
        self._source, self._sha256 = source, decisions.decided.sha256
        self._sources = decisions.decided.sources
        self._source_of = decisions.index[:, 1]
        self._files = {path.name: FileDigest(path.stat().st_size, durable.sha256_file(path)) for path in files}
        self._splits = {split: TokenSplit(0, 0, 0) for split in SPLITS}
        self._train: list[ShardEntry] = []
        self._counts = np.zeros(tokenizer.vocab_size, np.int64)
        self._unknown = 0

    def add(self, task: ShardTask, made: Made, maker: ShardMaker) -> None:
        """One more shard; the manifest, where it ends a chapter."""
        split, more = SPLITS[task.split], made.size
        before = self._splits[split]
        self._splits[split] = TokenSplit(
            before.tokens + more.tokens, before.bytes + more.bytes, before.characters + more.characters
        )
        self._files[task.file] = made.file
        self._counts += maker.counts(task, self.tokenizer.vocab_size)
        self._unknown += made.unknown
        if task.split == TRAIN:
            named = self._sources[self._source_of[task.first]] if len(self._sources) > 1 else None
            self._train.append(ShardEntry(task.file, more.tokens, named))
            if self.chapters is not None and len(self._train) in np.cumsum(self.chapters):
                self.write(complete=len(self._train) == sum(self.chapters))

    def write(self, complete: bool) -> Manifest:
        """statistics.json and the manifest of what is there."""
        statistics = shards.describe(self.tokenizer, self._splits, self._counts, self._unknown)
        durable.write_json(self.folder / STATISTICS, to_json(statistics, sparse=True))
        path = self.folder / STATISTICS
        in_several = [(entry.file, entry.source) for entry in self._train] != [("train.bin", None)]
        manifest = Manifest(
            version=shards.VERSION,
            source_sha256=self._sha256,
            tokenizer=TokenizerIdentity(self.tokenizer.name, self.tokenizer.vocab_size, self.tokenizer.digest),
            splits=self._splits,
            statistics=statistics,
            files={**self._files, path.name: FileDigest(path.stat().st_size, durable.sha256_file(path))},
            source=self._source,
            shards={"train": self._train} if in_several else {},
            plan=self.plan,
            chapters=self.chapters,
            complete=complete,
        )
        durable.write_json(self.folder / shards.MANIFEST, to_json(manifest, sparse=True))
        return manifest


def _chapters(count: int, chapter: int) -> list[int]:
    """The number of shards in each chapter, the last one shorter."""
    return [min(chapter, count - first) for first in range(0, count, chapter)]


def _require_room(folder: Path, decisions: Decisions, tokenizer: Tokenizer) -> None:
    """Raise UserError where the ids will not fit onto the disk, as far as the first documents say."""
    size = int(sum(decisions.sizes(split)[:, 2].sum() for split in range(len(SPLITS))))
    texts = list(sample(decisions, PROBED_BYTES))
    tokens_per_byte = sum(len(tokenizer.encode(text)) for text in texts) / max(1, sum(map(_bytes_in, texts)))
    needed = int(size * tokens_per_byte) * dtype_of(tokenizer.vocab_size).itemsize
    durable.make_parents(folder / shards.MANIFEST)
    if needed > (free := shutil.disk_usage(folder).free):
        raise UserError(f"{folder}: the ids need about {byte_size(needed)}, and {byte_size(free)} are free on its disk")


def _bytes_in(text: str) -> int:
    return len(text.encode("utf-8"))


def _remove_abandoned(folders: Iterable[Path], workers: Workers) -> None:
    """Remove what a process had begun to write that was killed. Processes of other machines are not known here."""
    if not workers.on:
        for folder in folders:
            durable.remove_abandoned(folder)


def _clear_for(folder: Path, plan: str) -> None:
    """Take away the manifest of other data; what a start before made of the same is kept."""
    try:
        same = shards.read_manifest(folder).plan == plan
    except (UserError, OSError, ValueError):
        same = False
    if not same:
        durable.remove(folder / shards.MANIFEST)


def _clear(folder: Path, notes: Path, manifest: Manifest) -> None:
    """Remove the notes of the making, and shards of other data that lay here."""
    shutil.rmtree(notes, ignore_errors=True)
    for path in [*folder.glob("train-*.bin"), *(folder / f"{split}.bin" for split in SPLITS)]:
        if path.name not in manifest.files:
            path.unlink(missing_ok=True)


def _write_texts(folder: Path, decisions: Decisions) -> dict[str, TextSplit]:
    """train.txt, a sample; val.txt and test.txt, whole. What each split has, with what parts documents."""
    for split, name in enumerate(SPLITS):
        found = _sampled(decisions, SAMPLE_BYTES) if split == TRAIN else _all_texts(decisions, split)
        parts = ((text + DOCUMENT_SEPARATOR * ends).encode("utf-8") for text, ends in found)
        durable.write_pieces(folder / f"{name}.txt", parts)
    splits, first = {}, 0
    for split, name in enumerate(SPLITS):
        _, characters, size, _, _ = decisions.sizes(split).sum(axis=0).tolist()
        added = int(decisions.ends(split).sum()) * len(DOCUMENT_SEPARATOR)
        splits[name] = TextSplit(characters + added, size + added, first)
        first += characters + added
    return splits


def _all_texts(decisions: Decisions, split: int) -> Iterator[tuple[str, bool]]:
    for piece in np.flatnonzero(decisions.sizes(split)[:, 0]).tolist():
        yield from decisions.texts(piece, split)


def _require_text(account: Account, scanned: Sequence[Scanned]) -> None:
    """Raise UserError where nothing was kept, and say why."""
    if any(piece.documents for piece in scanned):
        return
    reasons = Counter[str]()
    for piece in scanned:
        reasons.update({fate: count.documents for fate, count in piece.fates.fates.items()})
    why = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in reasons.most_common(5))
    example = next((line for lines in account.examples.values() for line in lines), "")
    raise UserError(f"data.source: no text is left of it ({why or 'it holds no document'}){example and f'; {example}'}")


def _described(
    decisions: Decisions, account: Account, alphabet: Counter[str], splits: dict[str, TextSplit]
) -> TextStatistics:
    fates = decisions.decided.fates.fates
    lines, words = (int(sum(decisions.sizes(split)[:, column].sum() for split in range(3))) for column in (3, 4))
    repeated = sum(fates[fate].documents for fate in (Fate.DUPLICATE, Fate.NEAR_DUPLICATE) if fate in fates)
    return TextStatistics(
        documents=account.documents,
        duplicates_removed=repeated,
        encodings=dict(account.encodings),
        characters=sum(split.characters for split in splits.values()),
        bytes=sum(split.bytes for split in splits.values()),
        lines=lines,
        words=words,
        distinct_words=None,
        alphabet="".join(sorted(alphabet)),
        most_frequent=sorted(alphabet.items(), key=lambda found: (-found[1], found[0]))[:COMMONEST],
        sha256=decisions.decided.sha256,
        splits=splits,
        readings=[account.readings[name] for name in sorted(account.readings)],
        fates=decisions.decided.fates,
    )
