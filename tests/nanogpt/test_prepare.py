"""nanogpt prepare: a text becomes a data folder, by a tokenizer of its own or by that of a model."""

import pytest

from nanogpt import cli
from nanogpt.data import shards
from nanogpt.data.tokenizer import load_tokenizer

pytestmark = pytest.mark.fast
TEXT = "the cat sat on the mat, the cat sat on the hat.\n" * 40


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


def test_characters_by_default(text, tmp_path, capsys):
    assert cli.main(["prepare", text, "--out", str(tmp_path / "data")]) == 0
    manifest = shards.verify(tmp_path / "data")
    assert manifest.tokenizer.vocab_size == len(set(TEXT)) + 1
    assert {name: split.characters for name, split in manifest.splits.items()} == {
        "train": int(len(TEXT) * 0.9), "val": 96, "test": 96,
    }  # fmt: skip
    assert "train 1,728, val 96, test 96 tokens of a vocabulary of 14" in capsys.readouterr().out


def test_byte_pairs_and_other_shares(text, tmp_path):
    words = ["--tokenizer", "bpe", "--set", "data.bpe_vocab_size=260", "--set", "data.test_fraction=0.2"]
    assert cli.main(["prepare", text, "--out", str(tmp_path / "data"), *words]) == 0
    manifest = shards.verify(tmp_path / "data")
    assert manifest.tokenizer.name == "bpe"
    assert manifest.splits["test"].characters == int(len(TEXT) * 0.2)


def test_the_tokenizer_of_other_data_reads_another_text_by_the_same_ids(text, tmp_path):
    assert cli.main(["prepare", text, "--out", str(tmp_path / "first")]) == 0
    (tmp_path / "other.txt").write_text("a Zoo: the hat sat on cats.\n" * 60)
    words = ["prepare", str(tmp_path / "other.txt"), "--tokenizer-of", str(tmp_path / "first")]
    assert cli.main([*words, "--out", str(tmp_path / "second")]) == 0
    first, second = (load_tokenizer(tmp_path / name) for name in ("first", "second"))
    assert first.digest == second.digest
    tokens = shards.open_split(tmp_path / "second", "train").tokens
    assert first.decode(tokens[:28]) == "a \ufffdoo\ufffd the hat sat on cats.\n"  # not in the first text: unknown


@pytest.mark.parametrize(
    "words, told",
    [
        (["absent.txt"], "absent.txt"),
        (["TEXT", "--tokenizer-of", "absent"], "tokenizer.json: no such file"),
        (["TEXT", "--set", "data.val_fraction=2"], "--set data.val_fraction: found 2"),
        (["TEXT", "--tokenizer", "bpe", "--set", "data.bpe_vocab_size=3"], "--set data.bpe_vocab_size: found 3"),
        (["TEXT", "--set", "data.tokenizer=bpe"], "--set data.tokenizer: prepare takes it from --tokenizer"),
        (["TEXT", "--set", "training.seed=3"], "--set training.seed: changes nothing of the data"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(words, told, text, tmp_path, capsys):
    words = [text if word == "TEXT" else word for word in words]
    assert cli.main(["prepare", *words, "--out", str(tmp_path / "data")]) == 2
    captured = capsys.readouterr().err
    assert told in captured
    assert captured.count("\n") == 1
    assert not (tmp_path / "data").exists()
