"""From documents to three durable text files: decoded, cleaned, without duplicates, split for good.

The split is one rule for one or many documents: all of them joined (several: in the order of their sha256, which
mixes authors and is the same on every machine), then cut at exact character offsets
    train = [0, int(n * (1 - (val + test)))), and the rest divided between val and test in proportion.
With the defaults val and test together are the last tenth, nanoGPT's validation split.
"""

import hashlib
import re
import unicodedata
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nanogpt import durable
from nanogpt.config import DataConfig
from nanogpt.faults import UserError

SPLITS = ("train", "val", "test")
STATISTICS = "statistics.json"
SHORTEST = 1000  # characters: below this no split says anything
DOCUMENT_SEPARATOR = "\n\n"
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_WORD = re.compile(r"\w+")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class TextStatistics:
    """What the cleaned text is. `most_frequent` are the twenty commonest characters with their counts."""

    documents: int
    duplicates_removed: int
    encodings: dict[str, int]
    characters: int
    bytes: int
    lines: int
    words: int
    distinct_words: int
    alphabet: str
    most_frequent: list[tuple[str, int]]
    sha256: str
    splits: dict[str, dict[str, int]]  # name -> characters, bytes, first character


def prepare(documents: list[Path], folder: Path, config: DataConfig) -> dict:
    """Write train.txt, val.txt, test.txt and, last, statistics.json into `folder`; return the statistics.

    Raises UserError for a document that is not text and for a text too short to split.
    """
    (folder / STATISTICS).unlink(missing_ok=True)
    texts, encodings = [], {}
    for path in documents:
        text, encoding = decode(path.read_bytes(), path)
        encodings[encoding] = encodings.get(encoding, 0) + 1
        texts.append(clean(text))
    kept = distinct(texts)
    text = DOCUMENT_SEPARATOR.join(kept)
    offsets = split_offsets(len(text), config.val_fraction, config.test_fraction)
    splits = {}
    for name, (first, end) in offsets.items():
        part = text[first:end].encode("utf-8")
        durable.write_bytes(folder / f"{name}.txt", part)
        splits[name] = {"characters": end - first, "bytes": len(part), "first_character": first}
    statistics = asdict(_describe(text, splits, encodings, len(documents), len(texts) - len(kept)))
    durable.write_json(folder / STATISTICS, statistics)
    return durable.read_json(folder / STATISTICS)


def read_split(folder: Path, split: str) -> str:
    """The text of one split, exactly as `prepare` wrote it (no newline is translated)."""
    return (folder / f"{split}.txt").read_bytes().decode("utf-8")


def is_binary(head: bytes) -> bool:
    """Whether the first bytes of a file cannot be text: NUL, or many control characters."""
    if head.startswith(_UTF16_MARKS):
        return False
    controls = sum(head.count(code) for code in (*range(1, 9), *range(14, 27), *range(28, 32)))
    return b"\0" in head or controls > len(head) // 1000


def decode(data: bytes, path: Path) -> tuple[str, str]:
    """`data` as text and the encoding's name: UTF-8, UTF-16 with a mark, else Windows-1252 (old plain texts).

    Raises UserError naming `path` when it is none of them.
    """
    candidates = ("utf-16",) if data.startswith(_UTF16_MARKS) else ("utf-8-sig", "cp1252")
    if not is_binary(data[: 1 << 20]):
        for candidate in candidates:
            try:
                return data.decode(candidate), candidate.removesuffix("-sig")
            except UnicodeDecodeError:
                continue
    raise UserError(f"data.source: {path} is not text (neither UTF-8, UTF-16 nor Windows-1252)")


def clean(text: str) -> str:
    """Unix newlines, Unicode's composed form (NFC), no byte-order mark, no control characters but tab and newline.

    Idempotent, and tiny Shakespeare comes out byte for byte as it went in.
    """
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return unicodedata.normalize("NFC", text.lstrip("\ufeff"))


def distinct(texts: list[str]) -> list[str]:
    """The texts that hold more than white space, each once; more than one: in the order of their sha256."""
    by_digest = {hashlib.sha256(text.encode("utf-8")).hexdigest(): text for text in texts if text.strip()}
    return [by_digest[digest] for digest in sorted(by_digest)]


def split_offsets(characters: int, val_fraction: float, test_fraction: float) -> dict[str, tuple[int, int]]:
    """{split: (first, end)} in characters. Raises UserError when the text is too short or a split would be empty."""
    if characters < SHORTEST:
        raise UserError(
            f"data.source: the text has {characters:,} characters after cleaning; at least {SHORTEST:,} are needed"
        )
    held_out = val_fraction + test_fraction
    train_end = int(characters * (1 - held_out))
    val_end = train_end + int((characters - train_end) * (val_fraction / held_out))
    offsets = {"train": (0, train_end), "val": (train_end, val_end), "test": (val_end, characters)}
    for name, (first, end) in offsets.items():
        if end - first < 2:
            raise UserError(
                f"data.{name}_fraction: leaves {end - first} of {characters:,} characters for {name}; "
                "choose a larger share or a longer text"
                if name != "train"
                else f"data.val_fraction + data.test_fraction = {held_out:g} leaves nothing to train on"
            )
    return offsets


def _describe(
    text: str, splits: dict[str, dict[str, int]], encodings: dict[str, int], documents: int, duplicates: int
) -> TextStatistics:
    encoded = text.encode("utf-8")
    codes, counts = np.unique(np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32), return_counts=True)
    commonest = np.lexsort((codes, -counts))[:20]
    words = _WORD.findall(text)
    return TextStatistics(
        documents=documents,
        duplicates_removed=duplicates,
        encodings=encodings,
        characters=len(text),
        bytes=len(encoded),
        lines=text.count("\n") + (not text.endswith("\n")),
        words=len(words),
        distinct_words=len(set(words)),
        alphabet="".join(map(chr, codes)),
        most_frequent=[(chr(codes[i]), int(counts[i])) for i in commonest],
        sha256=hashlib.sha256(encoded).hexdigest(),
        splits=splits,
    )
