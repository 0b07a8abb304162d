"""WikiText's lines as articles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# A title stands between blank lines; ` = = Section = = ` is none, nor is a line of a formula with two signs.
_TITLE = re.compile(r" ?= [^=].* = ?\n?")


def joined(lines: Iterable[str]) -> Iterator[str]:
    """Articles in their order. What comes before the first title, the rest of an article that began elsewhere, is one.

    WikiText-103 as parquet has 28,475 articles for train in 1,801,350 rows, each a line.
    """
    article: list[str] = []
    was_blank = True
    for line in lines:
        if was_blank and article and _TITLE.fullmatch(line):
            if any(before.strip() for before in article):
                yield "".join(article)
            article = []
        article.append(line)
        was_blank = not line.strip()
    if any(before.strip() for before in article):
        yield "".join(article)
