"""nanogpt prepare: several sources in one data folder, kept apart; chapters, for a training that begins early."""

import random

import numpy as np
import pytest

from nanogpt import cli
from nanogpt.data import shards

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
