"""Text of any size for bench.data: documents of sentences drawn at random from the text at hand, the same each time.

The sentences are the embedded corpus's and, where a copy is there, tiny Shakespeare's. Two documents share so few that
no duplicate is found between them, but for those that are put in: of 100 documents, 3 are one of the last 500 once
more, and 3 are one with a word changed.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

from nanogpt import durable
from nanogpt.sources.embedded import EVERYTHING, write_embedded

MEGABYTES_A_FILE = 5  # 10**6 bytes each
COPIES, NEARLY = 0.03, 0.03
REMEMBERED = 500  # documents
SENTENCES = (5, 60)  # in a document, at least and at most
SENTENCE_END = re.compile(r"(?<=[.!?:])\s+|\n\s*\n")
LENGTHS = range(30, 601)  # characters of a sentence


def sentences(texts: list[str]) -> list[str]:
    """Each once, in order."""
    parts = (part.strip() for text in texts for part in SENTENCE_END.split(text))
    return list(dict.fromkeys(part for part in parts if len(part) in LENGTHS))


def make_text(folder: Path, megabytes: int, shakespeare: Path | None) -> Path:
    """Files of .jsonl, together about `megabytes` of text, in a folder in `folder`; made once."""
    made = folder / f"text-{megabytes}"
    done = made / ".done"
    if not done.exists():
        texts = list(texts_of(write_embedded(folder / "embedded", EVERYTHING)))
        if shakespeare and shakespeare.is_file():
            texts.append(shakespeare.read_text(encoding="utf-8"))
        pool = sentences(texts)
        print(f"{sum(map(len, texts)) / 1e6:.1f} MB at hand, {len(pool):,} sentences", flush=True)
        for number in range(-(-megabytes // MEGABYTES_A_FILE)):
            lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents(pool, number))
            durable.write_text(made / f"{number:04d}.jsonl", "".join(lines))
        done.touch()
    return made


def part_of(made: Path, megabytes: int) -> Path:
    """The first files of `made`, in a folder next to it: hard links."""
    part = made.with_name(f"text-{megabytes}")
    part.mkdir(exist_ok=True)
    for path in sorted(made.glob("*.jsonl"))[: -(-megabytes // MEGABYTES_A_FILE)]:
        if not (part / path.name).exists():
            os.link(path, part / path.name)
    return part


def documents(pool: list[str], number: int) -> Iterator[str]:
    """Those of file `number`."""
    generator = random.Random(number)
    last: list[str] = []
    left = MEGABYTES_A_FILE * 10**6
    while left > 0:
        kind = generator.random()
        if kind < COPIES + NEARLY and last:
            text = generator.choice(last)
            if kind < NEARLY:
                words = text.split(" ")
                words[generator.randrange(len(words))] = "another"
                text = " ".join(words)
        else:
            text = " ".join(generator.choices(pool, k=generator.randint(*SENTENCES)))
            last = [*last[1 - REMEMBERED :], text]
        left -= len(text.encode())
        yield text


def read_documents(folder: Path) -> Iterator[str]:
    """All of them, a file at a time."""
    for path in sorted(folder.glob("*.jsonl")):
        yield from texts_of(path)


def texts_of(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]
