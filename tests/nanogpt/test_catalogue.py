"""The catalogue, and nanogpt data list."""

import json

import pytest

from nanogpt.cli import main
from nanogpt.sources.catalogue import CATALOGUE, licence

pytestmark = pytest.mark.fast


def test_data_list_says_whose_each_text_is_how_large_and_which_run_it_serves(capsys):
    assert main(["data", "list"]) == 0
    printed = capsys.readouterr().out
    for source in CATALOGUE.values():
        [line] = [line for line in printed.splitlines() if line.startswith(f"{source.name} ")]
        assert f"for a run of {source.budget}:" in line and f"split: {source.split}, tokens: {source.tokenizer}" in line
        assert all(words in printed for words in (source.licence, source.description, source.page))
    assert "tinystories      for a run of hours: 1.91 GB of text, 1 GB to download" in printed
    assert "about 45 GB" in printed and "hf:owner/name" in printed and "\nembedded " in printed


def test_data_list_as_json(capsys):
    assert main(["data", "list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == list(CATALOGUE)
    assert rows[2]["hub"] == "hf:Salesforce/wikitext:wikitext-103-raw-v1" and len(rows[2]["digests"]) == 4


def test_each_entry_has_one_place_and_a_licence():
    for name, source in CATALOGUE.items():
        assert name == source.name and (source.file is None) != (source.hub is None)
        assert licence(name) and source.page.startswith("https://")
        assert all(len(digest) == 64 for digest in source.digests.values())
