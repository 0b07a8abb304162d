"""nanogpt data inspect: documents by number and by chance, tokens as they are, and how often each occurs."""

import json
import re

import numpy as np
import pytest

from nanogpt.cli import main
from nanogpt.data import inspection
from nanogpt.data.frequencies import frequencies_of
from nanogpt.data.inspection import Inspection
from nanogpt.data.shards import write_folder
from nanogpt.results.text import TokenSplit
from nanogpt.tokenizers.byte_pairs import BPETokenizer

DOCUMENTS = ["to be", "or", "", "né <b>🙂</b>\n\x1b[31mred", *(f"document {number}" for number in range(4, 40))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Documents with an end behind each in train; val is one text without."""
    home, tokenizer = tmp_path_factory.mktemp("data"), BPETokenizer.of_bytes()
    end = tokenizer.end_of_text
    ids = np.concatenate([[*tokenizer.encode(text), end] for text in DOCUMENTS]).astype(np.uint32)
    lines = tokenizer.encode("one long text " * 40)
    sizes = [TokenSplit(len(found), len(found), len(found)) for found in (ids, lines)]
    splits = {"train": (ids, sizes[0]), "val": (lines, sizes[1])}
    write_folder(home, tokenizer, splits, source_sha256="0" * 64)
    return home


def text_of(excerpt):
    return "".join(token.text for token in excerpt.tokens)


def test_each_document_is_found_by_its_number(folder, monkeypatch):
    monkeypatch.setattr(inspection, "BACKWARDS", 7)
    monkeypatch.setattr(inspection, "AT_ONCE", 16)
    found = Inspection(folder, "train", most=100)
    shown = [text_of(found.document(number)) for number in range(len(DOCUMENTS))]
    half = {"é": "<c3><a9>", "🙂": "<f0><9f><99><82>"}  # no token is a whole one
    assert shown == [re.sub("[é🙂]", lambda sign: half[sign[0]], text) for text in DOCUMENTS]
    drawn = found.drawn(5, seed=3)
    assert drawn == found.drawn(5, seed=3) != found.drawn(5, seed=4) and len({one.number for one in drawn}) == 5
    assert all(found.document(one.number) == one for one in drawn)


def test_a_long_document_is_cut_and_a_text_without_ends_is_seen_in_windows(folder):
    cut = Inspection(folder, "train", most=4).document(5)
    assert (text_of(cut), cut.left_out) == ("docu", 6)
    window = Inspection(folder, "val", most=5).document(2)
    assert (text_of(window), window.title) == ("ext o", "val, window 2: 5 tokens from 10 on")


def test_the_terminal_the_lines_and_the_page(folder, tmp_path, capsys):
    assert main(["data", "inspect", str(folder), "--document", "3"]) == 0
    shown = capsys.readouterr().out
    assert "n|<c3>|<a9>| |<|b|>" in shown and "\x1b" not in shown and "\\x1b|[|3|1|m" in shown
    assert "train, document 3: " in shown and " make up 50 %" in shown
    assert main(["data", "inspect", str(folder), "--json", "--split", "val", "--document", "1", "--tokens", "3"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["tokens"] == [[ord(letter), letter] for letter in " lo"] and row["window"] == 1
    page = tmp_path / "page.html"
    assert main(["data", "inspect", str(folder), "--document", "3", "--page", str(page)]) == 0
    content = page.read_text(encoding="utf-8")
    assert "<b>" not in content and "src=" not in content and "http" not in content  # escaped, and needs nothing else
    assert content.count('<span class="t t') == len(DOCUMENTS[3].encode())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--document", "40"], "--document: found 40, but train has 40 documents, counted from 0"),
        (["--split", "test"], "there is no such split; it is one of train, val"),
        (["--document", "999", "--split", "val"], "val has 2 windows of 300 tokens"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(words, message, folder, capsys):
    assert main(["data", "inspect", str(folder), *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_how_often_tokens_occur(folder):
    found = frequencies_of(folder)
    assert found.tokens == sum(len(text.encode()) + 1 for text in DOCUMENTS) + 560
    assert found.ranks[0] == (1, found.ranks[0][1]) and found.ranks[-1][0] == found.vocabulary_used
    times = [count for _, count in found.ranks]
    assert times == sorted(times, reverse=True)
    assert found.lengths == [(1, found.tokens - len(DOCUMENTS))]
    assert [share for share, _ in found.coverage] == [0.5, 0.9, 0.99]
    tokens = [count for _, count in found.coverage]
    assert tokens == sorted(tokens) and tokens[-1] <= found.vocabulary_used
