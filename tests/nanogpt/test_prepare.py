"""nanogpt prepare: a text becomes a data folder, by a tokenizer of its own or by that of a model."""

import os
from pathlib import Path

import pytest

from nanogpt import cli
from nanogpt.data import shards
from nanogpt.sources import fetching
from nanogpt.sources.part import Unobtainable
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.loading import load_tokenizer

pytestmark = pytest.mark.fast
TEXT = "the cat sat on the mat, the cat sat on the hat.\n" * 40
OTHER = "A DOG RAN TO THE SEA, NO DOG RAN TO THE LAKE.\n" * 40


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


@pytest.mark.parametrize("words", [[], ["--tokenizer", "bpe", "--set", "data.bpe_vocab_size=260"]])
def test_the_manifest_names_the_text_and_not_its_place(words, text, tmp_path):
    assert cli.main(["prepare", text, "--out", str(tmp_path / "data"), *words]) == 0
    assert shards.read_manifest(tmp_path / "data").source == "text.txt"
    assert str(tmp_path) not in (tmp_path / "data/manifest.json").read_text()
    assert cli.main(["prepare", text, "--out", str(tmp_path / "other"), "--tokenizer-of", str(tmp_path / "data")]) == 0
    assert shards.read_manifest(tmp_path / "other").source == "text.txt"


def test_a_text_that_could_not_be_had_is_not_named_as_if_it_had(tmp_path, monkeypatch):
    def fail(*arguments):
        raise Unobtainable("no network")

    monkeypatch.setattr(fetching, "obtain", fail)
    assert cli.main(["prepare", "tiny_shakespeare", "--out", str(tmp_path / "data")]) == 0
    assert shards.read_manifest(tmp_path / "data").source == "embedded"


def test_the_same_tokens_under_another_name_are_the_same_data(text, tmp_path):
    (tmp_path / "copy.txt").write_text(TEXT)
    for name, source in (("data", text), ("other", str(tmp_path / "copy.txt"))):
        assert cli.main(["prepare", source, "--out", str(tmp_path / name)]) == 0
    first, second = (tmp_path / name / "manifest.json" for name in ("data", "other"))
    assert first.read_bytes() != second.read_bytes()
    assert shards.identity(tmp_path / "data") == shards.identity(tmp_path / "other")


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
    "words, message",
    [
        (["absent.txt"], "absent.txt"),
        (["TEXT", "--tokenizer-of", "absent"], "tokenizer.json: no such file"),
        (["TEXT", "--set", "data.val_fraction=2"], "--set data.val_fraction: found 2"),
        (["TEXT", "--tokenizer", "bpe", "--set", "data.bpe_vocab_size=3"], "--set data.bpe_vocab_size: found 3"),
        (["TEXT", "--set", "data.tokenizer=bpe"], "--set data.tokenizer: prepare takes it from --tokenizer"),
        (["TEXT", "--set", "training.seed=3"], "--set training.seed: changes nothing of the data"),
        (
            ["TEXT", "--set", "data.encoding=klingon"],
            "--set data.encoding: found 'klingon', should be auto or an encoding",
        ),
        (["TEXT", "--allow-unknown"], "--allow-unknown goes with --tokenizer-of"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(words, message, text, tmp_path, capsys):
    words = [text if word == "TEXT" else word for word in words]
    assert cli.main(["prepare", *words, "--out", str(tmp_path / "data")]) == 2
    captured = capsys.readouterr().err
    assert message in captured
    assert captured.count("\n") == 1
    assert not (tmp_path / "data").exists()


# ---- a second run never reads what the first one wrote


def fingerprints(folder: Path) -> dict[str, str]:
    return {name: file.sha256 for name, file in shards.verify(folder).files.items()}


@pytest.mark.parametrize("out", ["tok", "a/tok", "."])
@pytest.mark.parametrize("source", ["tiny_shakespeare", None])
def test_a_folder_is_prepared_into_itself_twice_with_the_same_tokens(out, source, tmp_path, shared_data):
    texts = tmp_path / "texts"
    (texts / "a").mkdir(parents=True)
    (texts / "one.txt").write_text(TEXT)
    (texts / "a/two.md").write_text(OTHER)
    if source is not None:  # a download lies in it too
        words = ["prepare", source, "--out", str(texts / "play"), "--set", f"data.mirror={shared_data}"]
        assert cli.main(words) == 0
    prints = []
    for _ in range(3):
        assert cli.main(["prepare", str(texts), "--out", str(texts / out), "--tokenizer", "bpe"]) == 0
        prints.append(fingerprints(texts / out))
    assert prints[0] == prints[1] == prints[2]
    whole = "".join((texts / out / f"text/{split}.txt").read_text() for split in ("train", "val", "test"))
    assert whole in (f"{TEXT}\n\n{OTHER}", f"{OTHER}\n\n{TEXT}")


def test_what_is_left_out_is_counted(text, tmp_path, capsys):
    for _ in range(2):
        assert cli.main(["prepare", str(tmp_path), "--out", str(tmp_path / "data")]) == 0
    assert "nanogpt: 1 folder with output of nanogpt or of tools left out of the text" in capsys.readouterr().err


def test_no_name_of_a_file_is_a_command_to_the_terminal(text, tmp_path, capsys):
    (tmp_path / "b\x1b[2J.txt").write_bytes(bytes(range(256)) * 9)
    assert cli.main(["prepare", str(tmp_path), "--out", str(tmp_path / "data\x1b[2J")]) == 0
    said = "".join(capsys.readouterr())
    assert "b\\x1b[2J.txt: is not text" in said and "data\\x1b[2J: train" in said and "\x1b" not in said


@pytest.mark.parametrize("output", ["data/text", "data/text/train.txt", "data/text/within"])
def test_output_itself_is_refused(output, text, tmp_path, capsys):
    assert cli.main(["prepare", text, "--out", str(tmp_path / "data")]) == 0
    (tmp_path / "data/text/within").mkdir()
    (tmp_path / "data/text/within/own.txt").write_text(TEXT)
    assert cli.main(["prepare", str(tmp_path / output), "--out", str(tmp_path / "again")]) == 2
    assert "is output" in capsys.readouterr().err and not (tmp_path / "again").exists()


# ---- names and encodings


def test_a_file_whose_name_is_not_utf8_is_read_and_named(tmp_path, capsys):
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / os.fsdecode(b"caf\xe9.txt")).write_bytes(TEXT.encode() + b"\xff" + "é".encode() * 9)
    for source in (texts, texts / os.fsdecode(b"caf\xe9.txt"), f"{texts}/caf\\xe9.txt"):
        assert cli.main(["prepare", str(source), "--out", str(tmp_path / "data")]) == 0
        assert "caf\\xe9.txt: read as utf-8; 1 damaged place is U+FFFD now" in capsys.readouterr().err


def test_a_chosen_encoding_is_taken(tmp_path):
    (tmp_path / "own.txt").write_bytes("There was smørrebrød.\n".encode("cp1252") * 99)
    words = ["prepare", str(tmp_path / "own.txt"), "--out", str(tmp_path / "data")]
    assert cli.main(words) == 2
    assert cli.main([*words, "--set", "data.encoding=cp1252"]) == 0
    assert "smørrebrød" in (tmp_path / "data/text/train.txt").read_text()


# ---- the vocabulary of another model


def fine_tuning(folder: Path, text: str, *words: str) -> int:
    (folder / "other.txt").write_text(text, newline="")
    given = ["prepare", str(folder / "other.txt"), "--tokenizer-of", str(folder / "first")]
    return cli.main([*given, "--out", str(folder / "second"), *words])


def test_characters_outside_the_vocabulary_are_reported_and_refused_above_a_tenth(text, tmp_path, capsys):
    assert cli.main(["prepare", text, "--out", str(tmp_path / "first")]) == 0
    assert fine_tuning(tmp_path, "a Zoo: the hat sat on cats.\n" * 60) == 0
    said = capsys.readouterr().err
    assert "7.1 % of the characters are outside the tokenizer's vocabulary, the commonest: 'Z' (60), ':' (60)" in said
    assert shards.verify(tmp_path / "second").statistics.unknown == 120
    many = "the 🙂 and the ÄÖ\n" * 99
    assert fine_tuning(tmp_path, many) == 2
    said = capsys.readouterr().err
    assert "23.5 % of the characters" in said and "'🙂' (99)" in said and "--allow-unknown" in said
    assert said.count("\n") == 1
    assert fine_tuning(tmp_path, many, "--allow-unknown") == 0


def test_a_text_is_normalised_as_that_of_the_model_was(tmp_path, capsys):
    """Composed letters and Unix newlines, as `prepare` made them; what nanoGPT's alphabet has stays as it is."""
    composed, decomposed = "café noir, thé vert\n" * 60, "cafe\u0301 noir, the\u0301 vert\r\n" * 60
    (tmp_path / "text.txt").write_text(composed)
    assert cli.main(["prepare", str(tmp_path / "text.txt"), "--out", str(tmp_path / "first")]) == 0
    assert fine_tuning(tmp_path, decomposed) == 0
    first = load_tokenizer(tmp_path / "first")
    assert first.decode(shards.open_split(tmp_path / "second", "train").tokens) == composed[: int(len(composed) * 0.9)]
    CharTokenizer(sorted(set(decomposed)), closed=True).save(tmp_path / "first")
    assert fine_tuning(tmp_path, decomposed) == 0
    assert (tmp_path / "second/text/train.txt").read_bytes().decode() == decomposed[: int(len(decomposed) * 0.9)]
    capsys.readouterr()
    assert fine_tuning(tmp_path, composed) == 2
    assert "it has no token for them" in capsys.readouterr().err
