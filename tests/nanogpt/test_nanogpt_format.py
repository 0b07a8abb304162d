"""nanoGPT's data folders: ids keep their meaning, a harmful pickle is refused, nothing is made up."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt import cli
from nanogpt.corpus.nanogpt_format import import_folder
from nanogpt.data import shards
from nanogpt.data.shards import read_manifest
from nanogpt.faults import UserError
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.loading import load_tokenizer

TRAIN, VAL = "the cat sat on the mat, äh, the hat.\n" * 5, "the hat sat.\n"


def nanogpt_folder(folder: Path, order=sorted) -> Path:
    """What data/shakespeare_char/prepare.py writes."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = order(set(TRAIN + VAL))
    ids = {character: index for index, character in enumerate(characters)}
    for split, text in (("train", TRAIN), ("val", VAL)):
        np.array([ids[character] for character in text], dtype=np.uint16).tofile(folder / f"{split}.bin")
    meta = {"vocab_size": len(ids), "itos": dict(enumerate(characters)), "stoi": ids}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return folder


def reverse_order(characters):
    return sorted(characters, reverse=True)


@pytest.mark.parametrize("order", [sorted, reverse_order])
def test_ids_keep_their_meaning(order, tmp_path):
    source = nanogpt_folder(tmp_path / "theirs", order=order)
    manifest = import_folder(source, tmp_path / "ours")
    assert shards.verify(tmp_path / "ours") == manifest
    tokenizer = load_tokenizer(tmp_path / "ours")
    assert tokenizer.vocab_size == len(set(TRAIN + VAL))
    for name, text in (("train", TRAIN), ("val", VAL)):
        split = shards.open_split(tmp_path / "ours", name)
        assert split.tokens.tolist() == np.fromfile(source / f"{name}.bin", dtype=np.uint16).tolist()
        assert split.tokens.tolist() == tokenizer.encode(text).tolist()
        assert tokenizer.decode(split.tokens) == text
        assert (split.bytes, split.characters) == (len(text.encode()), len(text))
    with pytest.raises(UserError, match="there is no such split; it is one of train, val"):
        shards.open_split(tmp_path / "ours", "test")


@settings(max_examples=50)
@given(st.lists(st.characters(exclude_categories=["Cs"]), unique=True, min_size=1, max_size=30), st.data())
def test_a_closed_alphabet_reads_and_writes_its_own_text_and_refuses_other(alphabet, data):
    tokenizer = CharTokenizer(alphabet, closed=True)
    assert tokenizer.vocab_size == len(alphabet)
    text = data.draw(st.text(alphabet))
    ids = tokenizer.encode(text)
    assert [alphabet[index] for index in ids] == list(text)
    assert tokenizer.decode(ids) == text
    assert CharTokenizer.from_json(tokenizer.hugging_face()[0]).digest == tokenizer.digest
    assert tokenizer.digest != CharTokenizer(alphabet).digest
    other = data.draw(st.characters(exclude_categories=["Cs"]).filter(lambda character: character not in alphabet))
    with pytest.raises(UserError, match="has no id for the character"):
        tokenizer.encode(text + other)


def test_without_meta_the_ids_are_gpt2s(tmp_path, shared_data):
    source = tmp_path / "theirs"
    source.mkdir()
    np.array([15496, 995, 50256, 0, 30325], dtype=np.uint16).tofile(source / "train.bin")  # "Hello world<end>!é"
    np.array([15496, 995], dtype=np.uint16).tofile(source / "val.bin")
    import_folder(source, tmp_path / "ours", [str(shared_data)])
    split = shards.open_split(tmp_path / "ours", "train")
    tokenizer = load_tokenizer(tmp_path / "ours")
    text = tokenizer.decode([token for token in split.tokens if token != tokenizer.end_of_text])
    assert text.startswith("Hello world!")
    assert (split.bytes, split.characters) == (len(text.encode()), len(text))
    np.array([50257, 1], dtype=np.uint16).tofile(source / "val.bin")
    with pytest.raises(UserError, match=r"val\.bin: has the id 50257, but the vocabulary has 50,257 tokens"):
        import_folder(source, tmp_path / "ours", [str(shared_data)])


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harmed",)


@pytest.mark.parametrize(
    "meta, message",
    [
        (pickle.dumps({"itos": {0: "a"}, "x": Harmful()}), r"names (posix|nt)\.system among plain values; refused"),
        (pickle.dumps(Path("x")), r"names pathlib\S* among plain values; refused"),
        (b"", "is not a whole pickle"),
        (b"\x80\x04garbage", "meta.pkl: "),
        (pickle.dumps([1, 2]), "expected itos"),
        (pickle.dumps({"itos": {0: "a", 2: "b"}}), "expected itos"),
        (pickle.dumps({"itos": {0: "a", "1": "b"}}), "not single characters"),
        (pickle.dumps({"itos": {0: "a", 1: "bc"}}), "not single characters"),
        (pickle.dumps({"itos": {0: "a", 1: "a"}}), "two ids have the same character"),
        (pickle.dumps({"itos": {0: "a", 1: "b"}}), r"train\.bin: has the id \d+, but the vocabulary has 2 tokens"),
    ],
)
def test_a_meta_that_is_not_plain_is_refused_in_one_line(meta, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = nanogpt_folder(tmp_path / "theirs")
    (source / "meta.pkl").write_bytes(meta)
    with pytest.raises(UserError, match=message) as caught:
        import_folder(source, tmp_path / "ours")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harmed").exists()
    assert not (tmp_path / "ours").exists()


def test_a_folder_that_is_none_of_nanogpts_is_named(tmp_path):
    source = nanogpt_folder(tmp_path / "theirs")
    import_folder(source, tmp_path / "ours")
    with pytest.raises(UserError, match="own format already"):
        import_folder(tmp_path / "ours", tmp_path / "again")
    (source / "val.bin").write_bytes(b"odd")
    with pytest.raises(UserError, match="has 3 bytes; expected uint16 ids"):
        import_folder(source, tmp_path / "again")
    with pytest.raises(UserError, match=r"train\.bin: there is no such file"):
        import_folder(tmp_path, tmp_path / "again")


def test_the_command_says_what_there_is(tmp_path, capsys):
    source = nanogpt_folder(tmp_path / "theirs")
    assert cli.main(["import-data", str(source), "--out", str(tmp_path / "ours")]) == 0
    assert f"train {len(TRAIN):,}, val {len(VAL):,} tokens" in capsys.readouterr().out
    assert cli.main(["import-data", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(["prepare", str(source), "--out", str(tmp_path / "same")]) == 0
    assert read_manifest(tmp_path / "same") == read_manifest(tmp_path / "ours")
    for option in (["--tokenizer", "bpe"], ["--chapter", "2"], ["--bytes", "1M"], ["--on", "dask"]):
        assert cli.main(["prepare", str(source), "--out", str(tmp_path / "x"), *option]) == 2
        assert "which are taken as they are" in capsys.readouterr().err
