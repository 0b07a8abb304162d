"""The documents of a small corpus that are kept, in memory: filtered, each once, without near duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from nanogpt.config import DataConfig
from nanogpt.corpus.duplicates import Families, repeated
from nanogpt.corpus.fates import Fate, Fates
from nanogpt.corpus.filters import Filters
from nanogpt.corpus.fingerprints import fingerprints
from nanogpt.results.text import DocumentFates
from nanogpt.sources.document import Document


@dataclass(frozen=True)
class Selection:
    """`texts` in the order of their sha256, near duplicates, which have one of `families`, next to each other. `fates`
    of all documents."""

    texts: list[str]
    families: list[int]
    fates: DocumentFates


def select(documents: Iterable[Document], config: DataConfig, normalise: Callable[[str], str] | None) -> Selection:
    """The kept texts of `documents`. `normalise` as Filters.from_config has it."""
    filters, fates = Filters.from_config(config, normalise), Fates()
    names, texts = [], []
    for document in documents:
        filtered = filters.apply(document)
        fates.count(filtered.fate, document.name, len(filtered.text))
        fates.find(filtered.findings)
        if filtered.fate is Fate.KEPT:
            names.append(document.name)
            texts.append(filtered.text)
    prints = fingerprints(texts, sketched=config.near_duplicates != "ignore" and len(texts) > 1)
    is_distinct = ~repeated(prints.digests)
    roots = Families(prints, config.similarity, is_distinct).roots()
    is_kept = is_distinct & (roots == np.arange(len(roots))) if config.near_duplicates == "drop" else is_distinct
    for place in np.flatnonzero(~is_kept):
        fate = Fate.NEAR_DUPLICATE if is_distinct[place] else Fate.DUPLICATE
        fates.take_from_kept(fate, names[place], len(texts[place]))
    own, family = prints.digests, prints.digests[roots]
    order = np.lexsort((own[:, 1], own[:, 0], family[:, 1], family[:, 0]))
    kept = order[is_kept[order]]
    return Selection([texts[place] for place in kept], roots[kept].tolist(), fates.record())
