"""A data folder: the token ids of each split in one file or in several shards, and a manifest that is written last.

    out_folder/  train.bin  val.bin  test.bin  tokenizer.json  tokenizer_config.json  statistics.json  manifest.json

Of a large text the training split is train-00000.bin, train-00001.bin and so on, in this order. Where a training is to
begin while they are made, the manifest comes with the first ones, and again with each that is added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nanogpt import durable
from nanogpt.data import texts
from nanogpt.data.shard_file import AT_ONCE, Ids, Joined, Tokens, open_shard, write_shard
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.records import from_json, to_json
from nanogpt.results.text import TokenSplit, TokenStatistics
from nanogpt.tokenizers.tokenizer import Tokenizer

MANIFEST = "manifest.json"
VERSION = 1
MOST_UNKNOWN = 0.1  # of the characters, unless a person allows more


@dataclass(frozen=True)
class Split:
    """One split: `tokens` (T,) is read from the disk as needed; bytes and characters are those of its text."""

    name: str
    tokens: Tokens
    bytes: int
    characters: int
    vocab_size: int
    tokenizer_digest: str


@dataclass(frozen=True)
class TokenizerIdentity:
    """Data and models with equal digests read the same text as the same ids."""

    name: str
    vocab_size: int
    digest: str


@dataclass(frozen=True)
class FileDigest:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardEntry:
    """One shard of a split, by the name of its file; `source` is the name of its text in a mixture."""

    file: str
    tokens: int
    source: str | None = None


@dataclass(frozen=True)
class Manifest:
    """What a data folder holds: manifest.json. `source` is the name of its text, where it is recorded.

    `shards`: of each split that is in several files, these in order; any other is in `<split>.bin`. `plan`: the digest
    of all that decides the ids, known before the first of them is written; None where the files alone say it.
    `chapters`: how many shards of train each chapter has, in order, where a training may begin while later ones are
    made; until `complete`, the shards of the first chapters are listed, whole, and never written again.
    """

    version: int
    source_sha256: str
    tokenizer: TokenizerIdentity
    splits: dict[str, TokenSplit]
    statistics: TokenStatistics
    files: dict[str, FileDigest]
    source: str | None = None
    shards: dict[str, list[ShardEntry]] = field(default_factory=dict)
    plan: str | None = None
    chapters: list[int] | None = None
    complete: bool = True

    def summary(self) -> str:
        """`train 1,003,854, val 55,770, test 55,770 tokens of a vocabulary of 66`."""
        tokens = ", ".join(f"{name} {split.tokens:,}" for name, split in self.splits.items())
        return f"{tokens} tokens of a vocabulary of {self.tokenizer.vocab_size:,}"


def write_folder(
    folder: Path,
    tokenizer: Tokenizer,
    splits: Mapping[str, tuple[Ids, TokenSplit]],
    source_sha256: str,
    unknown: int = 0,
    source: str | None = None,
) -> Manifest:
    """A data folder of `splits`: name -> ids (T,) and their number of tokens, bytes and characters.

    Returns the manifest, which is written last. Raises ValueError for an id outside the vocabulary.
    """
    durable.remove(folder / MANIFEST)
    for path in folder.glob("train-*.bin"):  # of a large text that lay here
        path.unlink()
    files = tokenizer.save(folder)
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for split, (tokens, _) in splits.items():
        files.append(write_split(folder, split, tokens, tokenizer))
        counts += count_tokens(tokens, tokenizer.vocab_size)
    sizes = {split: size for split, (_, size) in splits.items()}
    statistics = describe(tokenizer, sizes, counts, unknown)
    durable.write_json(folder / texts.STATISTICS, to_json(statistics, sparse=True))
    files.append(folder / texts.STATISTICS)
    manifest = Manifest(
        version=VERSION,
        source_sha256=source_sha256,
        tokenizer=TokenizerIdentity(tokenizer.name, tokenizer.vocab_size, tokenizer.digest),
        splits=sizes,
        statistics=statistics,
        files={path.name: FileDigest(path.stat().st_size, durable.sha256_file(path)) for path in files},
        source=source,
    )
    durable.write_json(folder / MANIFEST, to_json(manifest, sparse=True))
    return manifest


def count_tokens(tokens: Tokens, vocab_size: int) -> npt.NDArray[np.int64]:
    """How often each id occurs, (vocab_size,), or more when an id is outside the vocabulary."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(tokens), AT_ONCE):
        found = np.bincount(tokens[start : start + AT_ONCE], minlength=vocab_size)
        counts = np.pad(counts, (0, len(found) - len(counts))) + found
    return counts


def write_split(folder: Path, split: str, tokens: Ids, tokenizer: Tokenizer) -> Path:
    """Write one split durably and return its path. Raises ValueError for an id outside the vocabulary."""
    path = folder / f"{split}.bin"
    write_shard(path, tokens, tokenizer.vocab_size, tokenizer.digest)
    return path


def open_split(folder: Path, split: str) -> Split:
    """One split, memory-mapped, with its headers and lengths checked (for its bytes see `verify`).

    Raises UserError when `folder` holds no data, CorruptFileError when header, length and manifest disagree.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if split not in manifest.splits:
        raise UserError(f"{folder / split}.bin: there is no such split; it is one of {', '.join(manifest.splits)}")
    size = manifest.splits[split]
    entries = manifest.shards.get(split) or [ShardEntry(f"{split}.bin", size.tokens)]
    return _opened(folder, split, entries, size, manifest.tokenizer)


def parts_of(tokens: Tokens) -> list[Ids]:
    """The shards of a split, in order."""
    return tokens.parts if isinstance(tokens, Joined) else [tokens]


def open_sources(folder: Path, split: str) -> dict[str, Tokens]:
    """The tokens of each source of a split, by its name, in the order of the shards; {} where no shard names one.

    Raises what open_split() raises.
    """
    entries = read_manifest(folder).shards.get(split, [])
    by_source: dict[str, list[Ids]] = {}
    for entry, tokens in zip(entries, parts_of(open_split(folder, split).tokens), strict=False):
        if entry.source is not None:
            by_source.setdefault(entry.source, []).append(tokens)
    return {source: Joined(shards) for source, shards in by_source.items()}


def _opened(
    folder: Path, split: str, entries: list[ShardEntry], size: TokenSplit, tokenizer: TokenizerIdentity
) -> Split:
    parts = []
    for entry in entries:
        path = folder / entry.file
        if not path.is_file():
            raise UserError(f"{path}: there is no such file; its {MANIFEST} says that there is")
        shard = open_shard(path)
        if shard.tokenizer_digest != tokenizer.digest or len(shard.tokens) != entry.tokens:
            raise CorruptFileError(f"{path} and its {MANIFEST} were not made together")
        parts.append(shard.tokens)
    tokens = parts[0] if len(parts) == 1 else Joined(parts)
    if len(tokens) != size.tokens:
        raise CorruptFileError(
            f"{folder / MANIFEST}: the shards of {split} have {len(tokens):,} tokens together, it says {size.tokens:,}"
        )
    return Split(split, tokens, size.bytes, size.characters, tokenizer.vocab_size, tokenizer.digest)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a data folder. Raises UserError when there is none, CorruptFileError when it is not JSON."""
    path = Path(folder) / MANIFEST
    if not Path(folder).is_dir():
        what = "is a file" if Path(folder).exists() else "there is no such folder"
        raise UserError(f"{folder}: {what}; expected a folder of tokenised data (train.bin, {MANIFEST})")
    if not path.is_file():
        # A run has a folder of tokens for each tokenizer.
        below = sorted(
            str(file.parent) for file in Path(folder).glob("*/train.bin") if file.with_name(MANIFEST).is_file()
        )
        instead = f"; {', '.join(below[:3])} would do" if below else ""
        raise UserError(f"{folder} is not a data folder (it has no {MANIFEST}){instead}")
    try:
        content = durable.read_json(path)
    except ValueError as error:
        raise CorruptFileError(f"{path} is not JSON ({error})") from error
    try:
        return from_json(Manifest, content)
    except ValueError:
        raise UserError(
            f"{folder} is not a data folder: its {MANIFEST} is of something else, such as a checkpoint"
        ) from None


def identity(folder: Path) -> str:
    """What a training knows its data by: sha256 of the manifest, but for the name of the text, which changes nothing;
    the plan of data that has one, which is the same before and after the last shard is there.

    Raises OSError or ValueError without a manifest.
    """
    path = Path(folder) / MANIFEST
    content: dict[str, Any] = durable.read_json(path)
    if isinstance(plan := content.get("plan"), str):
        return plan
    if content.pop("source", None) is None:
        return durable.sha256_file(path)
    return hashlib.sha256(durable.json_bytes(content)).hexdigest()


def verify(folder: Path) -> Manifest:
    """Check every byte of a data folder against its manifest, and every id against the vocabulary; the manifest.

    Raises CorruptFileError, UserError. An id beyond the vocabulary ends an embedding: with an IndexError on a CPU, with
    an assertion that ends the whole process on CUDA. Looking at all ids costs a ninth of the digests (4.5 GB/s against
    0.5 on one core).
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        path = Path(folder) / name
        if not path.is_file():
            raise CorruptFileError(f"{path} is missing")
        try:
            size, sha256 = path.stat().st_size, durable.sha256_file(path)
        except OSError as error:  # a bad block of the disk, or lost permissions: remade as any other damage
            raise CorruptFileError(f"{path} cannot be read ({error.strerror})") from error
        if size != expected.bytes:
            raise CorruptFileError(f"{path} has {size:,} bytes instead of {expected.bytes:,}")
        if sha256 != expected.sha256:
            raise CorruptFileError(f"{path} changed after it was written (sha256 differs)")
    for split in manifest.splits:
        opened = open_split(folder, split)
        if (highest := int(opened.tokens.max(initial=0))) >= opened.vocab_size:
            raise CorruptFileError(
                f"{folder}: its {split} tokens have the id {highest}, beyond its vocabulary of {opened.vocab_size:,}"
            )
    return manifest


def check_fits(tokens: int, block_size: int) -> None:
    """Raise UserError for a context longer than a training text of `tokens` tokens."""
    if tokens <= block_size:
        raise UserError(
            f"model.block_size: found {block_size}, but the training text has only {tokens:,} tokens; "
            f"at most {max(tokens - 1, 0)} is possible"
        )


def describe(
    tokenizer: Tokenizer, splits: dict[str, TokenSplit], counts: npt.NDArray[np.int64], unknown: int = 0
) -> TokenStatistics:
    """Token statistics over all splits; `counts` (vocab_size,) is how often each token occurs."""
    tokens = sum(split.tokens for split in splits.values())
    used = np.flatnonzero(counts)
    commonest = used[np.lexsort((used, -counts[used]))][:20]
    longest = max(used.tolist(), key=lambda index: (len(tokenizer.decode_bytes([index])), -index))
    return TokenStatistics(
        tokenizer=tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        vocabulary_used=len(used),
        tokens=tokens,
        tokens_per_split={name: split.tokens for name, split in splits.items()},
        bytes_per_token=round(sum(split.bytes for split in splits.values()) / tokens, 4),
        most_frequent=[(tokenizer.token(index), int(counts[index])) for index in commonest.tolist()],
        longest_token=tokenizer.token(longest),
        unknown=unknown,
    )
