"""nanogpt prepare: several sources in one data folder, kept apart; chapters, for a training that begins early."""

import random
import re

import numpy as np
import pytest

from nanogpt import cli
from nanogpt.data import shards
from nanogpt.data.texts import SPLITS, read_split
from nanogpt.tokenizers.loading import load_tokenizer

pytestmark = pytest.mark.fast


def write_documents(folder, words, count):
    chance = random.Random(0)
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.txt").write_text(" ".join(chance.choices(words, k=60)) + "\n")
    return str(folder)


def test_several_sources_are_kept_apart_and_a_training_may_begin_with_the_first_chapter(tmp_path, capsys):
    sources = [write_documents(tmp_path / name, [f"{name}{n}" for n in range(300)], 40) for name in ("a", "b")]
    options = ["--tokenizer", "bpe", "--workers", "1", "--chapter", "1", "--set", "data.bpe_vocab_size=400"]
    assert cli.main(["prepare", *sources, "--out", str(tmp_path / "data"), *options]) == 0
    manifest, texts = shards.verify(tmp_path / "data"), shards.open_sources(tmp_path / "data", "train")
    assert manifest.source == "a, b" and list(texts) == ["a", "b"] and manifest.chapters == [1, 1] and manifest.complete
    train = np.asarray(shards.open_split(tmp_path / "data", "train").tokens)
    assert np.array_equal(np.concatenate([texts["a"], texts["b"]]), train)
    again = write_documents(tmp_path / "other" / "a", ["word"], 1)
    assert cli.main(["prepare", sources[0], again, "--out", str(tmp_path / "twice")]) == 2
    assert "SOURCE: two are called a" in capsys.readouterr().err


def test_a_book_in_a_mixture_is_divided_where_it_stands(tmp_path):
    """By documents it would fall whole into one split: the training of the mixture would lack it."""
    chance, sources = random.Random(1), [write_documents(tmp_path / "documents", ["lorem", "ipsum", "dolor"], 40)]
    books = {name: "".join(f"{name} {chance.random()}\n" for _ in range(400)) for name in ("first", "second")}
    for name, book in books.items():
        (tmp_path / f"{name}.txt").write_text(book)
        sources.append(str(tmp_path / f"{name}.txt"))
    assert cli.main(["prepare", *sources, "--out", str(tmp_path / "data"), "--workers", "1"]) == 0
    tokenizer = load_tokenizer(tmp_path / "data")
    train = shards.open_sources(tmp_path / "data", "train")
    assert list(train) == ["documents", "first.txt", "second.txt"]
    held_out = {split: read_split(tmp_path / "data/text", split) for split in ("val", "test")}
    splits = shards.verify(tmp_path / "data").splits
    assert all(len(text.encode()) == splits[split].bytes for split, text in held_out.items())
    for name, book in books.items():
        beginning = tokenizer.decode(np.asarray(train[f"{name}.txt"]).tolist()).removesuffix("\n\n")
        val, test = ("".join(re.findall(f"{name} .*\n", text)) for text in held_out.values())
        assert beginning + val + test == book and 0.03 < len(val) / len(book) < 0.08 and len(test) / len(book) > 0.03


def test_one_short_book_may_be_made_in_chapters(tmp_path):
    book = "".join(f"line {number}\n" for number in range(400))
    (tmp_path / "book.txt").write_text(book)
    assert (
        cli.main(
            ["prepare", str(tmp_path / "book.txt"), "--out", str(tmp_path / "data"), "--chapter", "1", "--workers", "1"]
        )
        == 0
    )
    assert "".join(read_split(tmp_path / "data/text", split) for split in SPLITS) == book
