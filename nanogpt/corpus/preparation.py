"""From documents to three durable text files: decoded, cleaned, without duplicates, split once and for all.

One rule splits one or many documents: all of them joined (several: in the order of their sha256, which mixes authors
and is the same on every machine, with near duplicates next to each other), then cut at exact character offsets
    train = [0, int(n * (1 - (val + test)))), and the rest divided between val and test in proportion.
With the defaults val and test together are the last tenth, nanoGPT's validation split.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from nanogpt import durable
from nanogpt.config import DataConfig
from nanogpt.corpus import fates
from nanogpt.corpus.fates import Fate, Fates
from nanogpt.corpus.selection import Selection, select
from nanogpt.data.texts import DOCUMENT_SEPARATOR, PIECES, STATISTICS
from nanogpt.faults import UserError
from nanogpt.records import to_json
from nanogpt.results.text import DocumentFates, Reading, TextSplit, TextStatistics
from nanogpt.sources import outputs
from nanogpt.sources.account import Account, remark_on
from nanogpt.sources.cleaning import require_learnable
from nanogpt.sources.document import Document
from nanogpt.sources.formats.family import Wanted
from nanogpt.sources.reading import texts_of
from nanogpt.spelling import spelled

_DUPLICATES = (Fate.DUPLICATE, Fate.NEAR_DUPLICATE)
_WORD = re.compile(r"\w+")


def prepare(
    documents: list[Path],
    folder: Path,
    config: DataConfig,
    normalise: Callable[[str], str] | None = None,
    account: Account | None = None,
    pulse: Callable[[], None] = lambda: None,
) -> TextStatistics:
    """Write train.txt, val.txt, test.txt and, last, statistics.json into `folder`; return the statistics.

    `normalise`: that of a tokenizer which exists already, in place of `config.unicode`. `account` counts what was read,
    and what was left out. `pulse` is called before each file: a large folder takes minutes. Raises UserError for a
    plain text that is none and stands alone, and for a text too short to split.
    """
    durable.remove(folder / STATISTICS)
    shutil.rmtree(folder / PIECES, ignore_errors=True)  # of a large text that lay here
    account = Account() if account is None else account
    wanted = Wanted.of(config)
    found, is_alone = list[Document](), len(documents) == 1
    for path in documents:
        pulse()
        texts = texts_of(path, wanted, account, is_alone)
        found += (Document(text, spelled(path.name), config.source) for text in texts)
    selection = select(found, config, normalise)
    became = Fates()
    became.merge(selection.fates)
    became.merge_unread(account)
    text = DOCUMENT_SEPARATOR.join(selection.texts)
    require_learnable(len(text), set(text))
    offsets = split_offsets(len(text), config.val_fraction, config.test_fraction)
    if config.near_duplicates == "together":
        offsets = _around_families(offsets, selection)
    outputs.mark(folder)
    splits = {}
    for name, (first, end) in offsets.items():
        part = text[first:end].encode("utf-8")
        durable.write_bytes(folder / f"{name}.txt", part)
        splits[name] = TextSplit(characters=end - first, bytes=len(part), first_character=first)
    statistics = _describe(
        text, splits, dict(account.encodings), len(found), became.record(),
        [account.readings[name] for name in sorted(account.readings)],
    )  # fmt: skip
    durable.write_json(folder / STATISTICS, to_json(statistics, sparse=True))
    return statistics


def remarks(statistics: TextStatistics) -> list[str]:
    """What a person should know of how the documents were read, a line an encoding, and of what became of them."""
    return [*map(remark_on, statistics.readings), *fates.remarks(statistics.fates)]


def split_offsets(characters: int, val_fraction: float, test_fraction: float) -> dict[str, tuple[int, int]]:
    """{split: (first, end)} in characters. Raises UserError when a split would be empty."""
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


def _around_families(offsets: dict[str, tuple[int, int]], selection: Selection) -> dict[str, tuple[int, int]]:
    """`offsets` that part no near duplicates, as far as no split becomes empty: such a family falls in val, whole."""
    (_, train_end), (_, val_end), (_, characters) = offsets.values()
    families, end = [], 0
    for _, family in groupby(zip(selection.families, selection.texts, strict=True), key=itemgetter(0)):
        first, end = end, end + sum(len(text) + len(DOCUMENT_SEPARATOR) for _, text in family)
        families.append((first, end))

    def moved(cut: int, least: int, most: int, outwards: Callable[[tuple[int, int]], tuple[int, ...]]) -> int:
        [around] = [family for family in families if family[0] < cut <= family[1]]
        return next((place for place in outwards(around) if least < place < most), cut)

    train_end = moved(train_end, 0, val_end, tuple)
    val_end = moved(val_end, train_end, characters, lambda around: around[::-1])
    return {"train": (0, train_end), "val": (train_end, val_end), "test": (val_end, characters)}


def _describe(
    text: str, splits: dict[str, TextSplit], encodings: dict[str, int], documents: int, became: DocumentFates,
    readings: list[Reading],
) -> TextStatistics:  # fmt: skip
    encoded = text.encode("utf-8")
    codes, counts = np.unique(np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32), return_counts=True)
    commonest = np.lexsort((codes, -counts))[:20]
    words = _WORD.findall(text)
    return TextStatistics(
        documents=documents,
        duplicates_removed=sum(became.fates[fate].documents for fate in _DUPLICATES if fate in became.fates),
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
        readings=readings,
        fates=became if became.findings or became.fates.keys() > {Fate.KEPT} else DocumentFates(),
    )
