"""The text that is fetched is the one that the report names."""

import pytest

from flows.ledger.facts import FETCHED
from flows.phases import dataset
from nanogpt.sources import fetching
from tests.flows.real_run import real_run

pytestmark = pytest.mark.fast


def test_the_embedded_corpus_is_not_passed_off_as_what_was_asked_for(tmp_path, monkeypatch):
    text = tmp_path / "embedded.txt"
    text.write_text("help()\n" * 100)
    run = real_run(tmp_path, "--data", "tiny_shakespeare")
    fetched = fetching.Fetched([text], "embedded", "0" * 64, 700, "tiny_shakespeare could not be had")
    monkeypatch.setattr(fetching, "fetch", lambda *arguments, **options: fetched)
    facts = dataset.fetch_text(run).facts
    assert facts.source == "embedded" and "PSF" in facts.licence
    monkeypatch.setattr(fetching, "fetch", lambda *arguments, **options: fetching.Fetched([text], "url", "0" * 64, 700))
    facts = dataset.fetch_text(run).facts
    assert facts.source == "tiny_shakespeare" and facts.licence == "public domain"


def test_a_mirror_named_later_fetches_again(tmp_path):
    """What the guide tells a person to do after a start without network."""
    without = real_run(tmp_path, "--data", "tiny_shakespeare")
    named = real_run(tmp_path, "--data", "tiny_shakespeare", "--set", f"data.mirror={tmp_path}")
    fetch = without.step(FETCHED)
    assert fetch.settings(without) != fetch.settings(named)
