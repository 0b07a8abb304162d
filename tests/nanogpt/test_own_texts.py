"""A person's own texts: patterns, several at once, standard input; `prepare` and `data check` on them."""

import io
import json
import os
import sys

import pytest

from nanogpt import cli
from nanogpt.corpus import choosing
from nanogpt.data import shards
from nanogpt.faults import UserError
from nanogpt.sources import own, own_pieces
from nanogpt.sources.fetching import fingerprint

TEXT = "".join(f"{number}: the quality of mercy is not strain'd.\n" for number in range(60))


@pytest.fixture
def texts(tmp_path):
    for name in ("a/one.txt", "a/two.md", "b/three.txt", "b/deep/four.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n{TEXT}")
    return tmp_path


def names(source):
    return [path.name for path in own.find_own(source).documents]


def test_patterns_and_several_sources_give_each_file_once_in_their_order(texts):
    assert names(f"{texts}/**/*.txt") == ["one.txt", "four.txt", "three.txt"]
    assert names(f"{texts}/b, {texts}/a/*.md,{texts}/a/two.md") == ["four.txt", "three.txt", "two.md"]
    (texts / "a,b [1].txt").write_text("a name with a comma")
    assert names(f"{texts}/a,b [1].txt") == ["a,b [1].txt"], "what is there is what is meant"
    assert own.name_of(f"{texts}/a,{texts}/b") == "a and 1 more"
    assert list(fingerprint(f"{texts}/*/*.txt")) == ["a/one.txt", "b/three.txt"]
    assert own.measure(str(texts / "b")) == (2, sum(path.stat().st_size for path in (texts / "b").rglob("*.txt")))
    for source, words in ((f"{texts}/*.pdf", "nothing is called like"), (f"{texts}/a,{texts}/c", "no file or folder")):
        with pytest.raises(UserError, match=words):
            own.find_own(source)


def test_a_folder_of_many_tiny_files_is_few_pieces_and_each_says_what_its_files_were(tmp_path, monkeypatch):
    for number in range(30):
        (tmp_path / f"{number:02}.txt").write_text(f"note {number}\n")
    monkeypatch.setattr(own_pieces, "MOST_FILES", 10)
    before = own_pieces.own_pieces(str(tmp_path))
    os.utime(tmp_path / "15.txt", ns=(1, 1))
    after = own_pieces.own_pieces(str(tmp_path))
    assert [len(json.loads(piece.options["files"])) for piece in before] == [10, 10, 10]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]
    monkeypatch.setattr(own, "FEW_FILES", 29)
    assert not choosing.is_small(str(tmp_path)) and choosing.is_small(str(tmp_path / "15.txt"))


def piped(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_records_and_standard_input_are_prepared_like_any_text(texts, monkeypatch, capsys):
    lines = "".join(json.dumps({"story": f"{number} {TEXT}", "by": "me"}) + "\n" for number in range(3))
    piped(monkeypatch, lines.encode())
    words = ["prepare", f"{texts}/a,-", "--out", str(texts / "data"), "--set", "data.column=story"]
    words += ["--set", "data.near_duplicates=ignore"]
    assert cli.main(words) == 0
    statistics = json.loads((texts / "data/text/statistics.json").read_text())
    assert statistics["documents"] == 3 + 2 and "left out" not in capsys.readouterr().err
    assert shards.read_manifest(texts / "data").source == "a and 1 more"
    piped(monkeypatch, b" ")
    assert cli.main(["prepare", "-", "--out", str(texts / "none")]) == 2
    assert "standard input is empty" in capsys.readouterr().err


SAID = """
4 files
3 documents
formats:   text 2, markdown 1
left out, could not be read: 3
link.txt: is a link to a folder
fifo.txt: is no plain file
bad.epub: File is not a zip file
left out, nothing or white space alone: 1
picture.png: is in no format
1 document with the text of another one"""


def test_check_says_what_would_be_read_and_what_not(texts, capsys):
    (texts / "a/one copy.txt").write_bytes((texts / "a/one.txt").read_bytes())
    (texts / "a/picture.png").write_bytes(b"\x89PNG")
    (texts / "a/empty.txt").write_bytes(b"")
    (texts / "a/bad.epub").write_bytes(b"PK")
    (texts / "a/link.txt").symlink_to("..")
    os.mkfifo(texts / "a/fifo.txt")
    assert cli.main(["data", "check", str(texts / "a")]) == 0
    out = capsys.readouterr().out
    assert [line for line in SAID.strip().split("\n") if line not in out] == []


@pytest.mark.parametrize("content, words", [
    (b"too short", "it has 9 characters; at least 1,000 are needed"), (b"a" * 5000, "'a' over and over"),
    (bytes(range(256)) * 9, "none of it can be read as text"), (b"", "none of it can be read as text"),
])  # fmt: skip
def test_check_fails_where_nothing_can_be_learned(content, words, tmp_path, capsys):
    (tmp_path / "own.txt").write_bytes(content)
    assert cli.main(["data", "check", str(tmp_path / "own.txt")]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert cli.main(["prepare", str(tmp_path / "own.txt"), "--out", str(tmp_path / "data")]) == 2
    assert words in capsys.readouterr().err or content[:1] == b"\0" or not content


@pytest.mark.parametrize("source", ["embedded", "tiny_shakespeare", "hf:owner/name"])
def test_check_says_that_a_published_text_is_not_ones_own(source, capsys):
    assert cli.main(["data", "check", source]) == 2
    assert f"{source} is no file or folder of text" in capsys.readouterr().err
