"""Token ids on disk: one binary file a split, each with a header, and a manifest that is written last.

    out_folder/  train.bin  val.bin  test.bin  tokenizer.json  tokenizer_config.json  statistics.json  manifest.json

A .bin file is a 64-byte header (magic, version, bytes per token, vocabulary size, token count, tokenizer digest;
little-endian) and then the ids as uint16, or uint32 when the vocabulary needs it.
"""

import itertools
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanogpt import durable
from nanogpt.config import DataConfig
from nanogpt.data import preprocessing
from nanogpt.data.download import Notify, say_nothing
from nanogpt.data.preprocessing import SPLITS
from nanogpt.data.tokenizer import BPETokenizer, CharTokenizer, Tokenizer, gpt2_tokenizer
from nanogpt.faults import CorruptFileError, UserError, nearest

MANIFEST = "manifest.json"
MAGIC = b"NANOGPT\0"
VERSION = 1
KINDS = ("char", "bpe", "gpt2")
AT_ONCE = 1 << 24  # tokens: what is imported may be larger than the memory
_HEADER = struct.Struct("<8sIIQQ32s")
_DTYPES = {2: np.dtype("<u2"), 4: np.dtype("<u4")}


@dataclass(frozen=True)
class Split:
    """One split: `tokens` (T,) is read from the disk as needed; bytes and characters are those of its text."""

    name: str
    tokens: np.ndarray
    bytes: int
    characters: int
    vocab_size: int
    tokenizer_digest: str


def tokenise(
    text_folder: Path,
    kind: str,
    out_folder: Path,
    config: DataConfig,
    notify: Notify = say_nothing,
) -> dict:
    """Tokenise what `preprocessing.prepare` wrote into `text_folder`; return the manifest, which is written last.

    The characters are the whole corpus's, so that no split has an unknown one; byte pairs are learned from train
    alone. Raises UserError for an unknown `kind` and a GPT-2 vocabulary that cannot be had.
    """
    texts = {split: preprocessing.read_split(text_folder, split) for split in SPLITS}
    tokenizer = make_tokenizer(kind, texts, out_folder, config, notify)
    return _write_texts(text_folder, texts, tokenizer, out_folder)


def tokenise_with(tokenizer: Tokenizer, text_folder: Path, out_folder: Path) -> dict:
    """tokenise() with a tokenizer that is there, such as that of a model to go on from. Raises UserError."""
    texts = {split: preprocessing.read_split(text_folder, split) for split in SPLITS}
    return _write_texts(text_folder, texts, tokenizer, out_folder)


def _write_texts(text_folder: Path, texts: dict[str, str], tokenizer: Tokenizer, out_folder: Path) -> dict:
    """The token files of `texts` and the manifest, which is returned. Raises UserError."""
    splits = {}
    for split, text in texts.items():
        tokens = tokenizer.encode(text)
        splits[split] = tokens, {"tokens": len(tokens), "bytes": len(text.encode("utf-8")), "characters": len(text)}
    source_sha256 = durable.read_json(text_folder / preprocessing.STATISTICS)["sha256"]
    return write_folder(out_folder, tokenizer, splits, source_sha256)


def write_folder(
    folder: Path, tokenizer: Tokenizer, splits: dict[str, tuple[np.ndarray, dict[str, int]]], source_sha256: str
) -> dict:
    """A data folder of `splits`: name -> ids (T,) and their number of tokens, bytes and characters.

    Returns the manifest, which is written last. Raises ValueError for an id outside the vocabulary.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    files = tokenizer.save(folder)
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for split, (tokens, _) in splits.items():
        files.append(write_split(folder, split, tokens, tokenizer))
        counts += count_tokens(tokens, tokenizer.vocab_size)
    sizes = {split: facts for split, (_, facts) in splits.items()}
    statistics = describe(tokenizer, sizes, counts)
    durable.write_json(folder / preprocessing.STATISTICS, statistics)
    files.append(folder / preprocessing.STATISTICS)
    manifest = {
        "version": VERSION,
        "source_sha256": source_sha256,
        "tokenizer": {
            "name": tokenizer.name,
            "vocab_size": tokenizer.vocab_size,
            "digest": tokenizer.digest,
        },
        "splits": sizes,
        "statistics": statistics,
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": durable.sha256_file(path)} for path in files},
    }
    durable.write_json(folder / MANIFEST, manifest)
    return manifest


def count_tokens(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """How often each id occurs, (vocab_size,) int64, or more when an id is outside of the vocabulary."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(tokens), AT_ONCE):
        found = np.bincount(tokens[start : start + AT_ONCE], minlength=vocab_size)
        counts = np.pad(counts, (0, len(found) - len(counts))) + found
    return counts


def make_tokenizer(
    kind: str, texts: dict[str, str], folder: Path, config: DataConfig, notify: Notify = say_nothing
) -> Tokenizer:
    """The tokenizer called `kind` for these splits. Raises UserError."""
    if kind == "char":
        return CharTokenizer(set().union(*map(set, texts.values())))
    if kind == "bpe":
        return BPETokenizer.train(texts["train"], config.bpe_vocab_size)
    if kind == "gpt2":
        return gpt2_tokenizer(folder, config.mirrors, notify)
    raise UserError(f"data.tokenizer: found {kind}, allowed are {', '.join(KINDS)}{nearest(kind, KINDS)}")


def write_split(folder: Path, split: str, tokens: np.ndarray, tokenizer: Tokenizer) -> Path:
    """Write one split durably and return its path. Raises ValueError for an id outside the vocabulary."""
    if len(tokens) and int(tokens.max()) >= tokenizer.vocab_size:
        raise ValueError(f"{split}: token {int(tokens.max())} is outside the vocabulary of {tokenizer.vocab_size}")
    width = 2 if tokenizer.vocab_size <= 1 << 16 else 4
    header = _HEADER.pack(
        MAGIC, VERSION, width, tokenizer.vocab_size, len(tokens), bytes.fromhex(tokenizer.digest)
    )  # fmt: skip
    path = folder / f"{split}.bin"
    pieces = (tokens[start : start + AT_ONCE] for start in range(0, len(tokens), AT_ONCE))
    durable.write_pieces(path, itertools.chain([header], (piece.astype(_DTYPES[width]).tobytes() for piece in pieces)))
    return path


def open_split(folder: Path, split: str) -> Split:
    """One split, memory-mapped, its header and length checked (its bytes: see `verify`).

    Raises UserError when `folder` holds no data, CorruptFileError when header, length and manifest disagree.
    """
    manifest = read_manifest(folder)
    path = Path(folder) / f"{split}.bin"
    if split not in manifest["splits"] or not path.is_file():
        raise UserError(f"{path}: there is no such split; it is one of {', '.join(manifest['splits'])}")
    with open(path, "rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise CorruptFileError(f"{path} is cut short ({len(head)} bytes)")
    magic, version, width, vocab_size, count, digest = _HEADER.unpack(head)
    if magic != MAGIC or version != VERSION or width not in _DTYPES:
        raise CorruptFileError(f"{path} is not a token file of version {VERSION}")
    expected, found = _HEADER.size + count * width, path.stat().st_size
    if found != expected:
        raise CorruptFileError(f"{path} has {found:,} bytes where its header says {expected:,}")
    facts = manifest["splits"][split]
    if digest.hex() != manifest["tokenizer"]["digest"] or count != facts["tokens"]:
        raise CorruptFileError(f"{path} and {MANIFEST} beside it were not made together")
    tokens = np.memmap(path, dtype=_DTYPES[width], mode="r", offset=_HEADER.size, shape=(count,))
    return Split(split, tokens, facts["bytes"], facts["characters"], vocab_size, digest.hex())


def read_manifest(folder: Path) -> dict:
    """The manifest of a data folder. Raises UserError when there is none, CorruptFileError when it is not JSON."""
    path = Path(folder) / MANIFEST
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: there is no such folder; expected tokenised data (train.bin, {MANIFEST})")
    if not path.is_file():
        raise UserError(f"{folder} is not a data folder (it has no {MANIFEST})")
    try:
        manifest = durable.read_json(path)
    except ValueError as error:
        raise CorruptFileError(f"{path} is not JSON ({error})") from error
    if not isinstance(manifest, dict) or not {"splits", "tokenizer", "files"} <= manifest.keys():
        raise UserError(f"{folder} is not a data folder: its {MANIFEST} is of something else, such as a checkpoint")
    return manifest


def verify(folder: Path) -> dict:
    """Check every byte of a data folder against its manifest, and every id against the vocabulary; the manifest.

    Raises CorruptFileError, UserError. An id beyond the vocabulary ends an embedding: in an IndexError on a CPU, in an
    assertion that takes the whole process along on CUDA. Looking at them all costs a ninth of the digests (4.5 GB/s
    against 0.5 on one core).
    """
    manifest = read_manifest(folder)
    for name, facts in manifest["files"].items():
        path = Path(folder) / name
        if not path.is_file():
            raise CorruptFileError(f"{path} is missing")
        try:
            size, sha256 = path.stat().st_size, durable.sha256_file(path)
        except OSError as error:  # a bad block of the disk, or lost permissions: remade as any other damage
            raise CorruptFileError(f"{path} cannot be read ({error.strerror})") from error
        if size != facts["bytes"]:
            raise CorruptFileError(f"{path} has {size:,} bytes instead of {facts['bytes']:,}")
        if sha256 != facts["sha256"]:
            raise CorruptFileError(f"{path} changed after it was written (sha256 differs)")
    for split in manifest["splits"]:
        opened = open_split(folder, split)
        if (highest := int(opened.tokens.max(initial=0))) >= opened.vocab_size:
            raise CorruptFileError(
                f"{folder}/{split}.bin has the id {highest}, beyond its vocabulary of {opened.vocab_size:,}"
            )
    return manifest


def check_fits(data: dict | int, block_size: int) -> None:
    """Refuse a context that the training text cannot fill once. `data`: a manifest or the number of its tokens.

    Raises UserError.
    """
    tokens = data if isinstance(data, int) else data["splits"]["train"]["tokens"]
    if tokens <= block_size:
        raise UserError(
            f"model.block_size: found {block_size}, but the training text has only {tokens:,} tokens; "
            f"at most {max(tokens - 1, 0)} is possible"
        )


def describe(tokenizer: Tokenizer, splits: dict[str, dict[str, int]], counts: np.ndarray) -> dict:
    """Token statistics over all splits; `counts` (vocab_size,) says how often each token occurs."""
    tokens = sum(facts["tokens"] for facts in splits.values())
    used = np.flatnonzero(counts)
    commonest = used[np.lexsort((used, -counts[used]))][:20]
    longest = max(used.tolist(), key=lambda index: (len(tokenizer.decode_bytes([index])), -index))
    return {
        "tokenizer": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "vocabulary_used": len(used),
        "tokens": tokens,
        "tokens_per_split": {name: facts["tokens"] for name, facts in splits.items()},
        "bytes_per_token": round(sum(facts["bytes"] for facts in splits.values()) / tokens, 4),
        "most_frequent": [[tokenizer.token(index), int(counts[index])] for index in commonest.tolist()],
        "longest_token": tokenizer.token(longest),
    }
