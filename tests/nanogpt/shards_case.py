"""A data folder in shards, of two texts whose documents end with a token; also while it is still being made."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from nanogpt import durable
from nanogpt.data import shards
from nanogpt.data.shard_file import write_shard
from nanogpt.records import to_json
from nanogpt.results.text import TokenSplit
from nanogpt.tokenizers.byte_pairs import BPETokenizer

DOCUMENTS = {
    "sheep": [f"the {n} sheep and {n * 7 % 13} goats went over hill {n % 5}.\n" for n in range(300)],
    "ships": [f"Ship {n % 17} sails in {n * 3 % 7} days; {n % 11} men are aboard.\n" for n in range(200)],
}


def make_shards(folder: Path, chapters: list[int] | None = None) -> Path:
    """A finished data folder: four shards of each text, a validation split of both."""
    tokenizer = BPETokenizer.train("".join(chain(*DOCUMENTS.values())), 300)
    ids = {
        name: [np.append(tokenizer.encode(document), tokenizer.end_of_text) for document in documents]
        for name, documents in DOCUMENTS.items()
    }
    train = [(name, np.concatenate(part)) for name in ids for part in np.array_split(np.array(ids[name], object), 4)]
    both = np.concatenate([ids["sheep"][0], ids["ships"][0]])
    whole = np.concatenate([part for _, part in train])
    splits = {name: (tokens, TokenSplit(len(tokens), 3 * len(tokens), 3 * len(tokens)))
              for name, tokens in (("train", whole), ("val", both), ("test", both))}  # fmt: skip
    manifest = shards.write_folder(folder, tokenizer, splits, "0" * 64)
    (folder / "train.bin").unlink()
    files = {name: digest for name, digest in manifest.files.items() if name != "train.bin"}
    entries = []
    for number, (source, part) in enumerate(train):
        path = folder / f"train-{number:05d}.bin"
        write_shard(path, part, tokenizer.vocab_size, tokenizer.digest)
        files[path.name] = shards.FileDigest(path.stat().st_size, durable.sha256_file(path))
        entries.append(shards.ShardEntry(path.name, len(part), source))
    write_manifest(folder, replace(manifest, files=files, shards={"train": entries}, plan="1" * 64, chapters=chapters))
    return folder


def write_manifest(folder: Path, manifest: shards.Manifest) -> None:
    durable.write_json(folder / shards.MANIFEST, to_json(manifest, sparse=True))


def first_chapters(whole: shards.Manifest, count: int) -> shards.Manifest:
    """The manifest of a folder of which no more than the first chapters are there."""
    entries = whole.shards["train"][: sum(whole.chapters[:count])]
    missing = {entry.file for entry in whole.shards["train"][len(entries) :]}
    train = replace(whole.splits["train"], tokens=sum(entry.tokens for entry in entries))
    return replace(
        whole, shards={"train": entries}, splits={**whole.splits, "train": train}, complete=not missing,
        files={name: digest for name, digest in whole.files.items() if name not in missing},
    )  # fmt: skip
