"""A run that chooses its text: what can be had is asked for on a hub on loopback, as much as is read is fetched from it
and prepared, and where it cannot be had after all, the next best takes its place."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from flows.cli.command_line import parse
from flows.full_run import PHASES
from flows.ledger.facts import (
    BYTE_PAIRS,
    CHARACTERS,
    CHECKS,
    CLEANED,
    DEVICE,
    FETCHED,
    MEASURED,
    PLANNED,
    SURVEYED,
    Checks,
)
from flows.phases.configuration import configuration
from flows.phases.dataset import dataset
from flows.runner.run import Run
from nanogpt.config import load_config
from nanogpt.corpus import choosing
from nanogpt.data.shards import open_split, read_manifest
from nanogpt.sources import catalogue
from tests.flows.parts import assembled, finish, proof
from tests.flows.planning.machines import Machine
from tests.nanogpt import hub_case

pytestmark = pytest.mark.fast
HOURS = ["--data", "auto", "--budget", "2h", "--set", "ladder=[micro]", "--set", "training.max_iters=60",
         "--set", "tests=false"]  # fmt: skip
OF_AN_M4 = 1.8e12  # FLOP/s


def stories(count: int) -> list[str]:
    """No two of them alike."""
    words, draw = [f"{first}{last}" for first in "bdfgklmnprst" for last in ("an", "ee", "ox", "um")], Random(7)
    return [" ".join(draw.choices(words, k=150)) + f". The end of story {number}.\n" for number in range(count)]


def openwebtext() -> hub_case.Repository:
    card = hub_case.card(hub_case.config("plain_text", True, train="plain_text/train-*"))
    pages = hub_case.parquet(stories(100), 50)
    return hub_case.Repository({"README.md": card, "plain_text/train-00000-of-00001.parquet": pages})


@pytest.fixture
def hub(monkeypatch):
    files = {f"data/train-{number:05d}-of-00002.parquet": hub_case.parquet(stories(200 * (number + 1))[-200:], 50)
             for number in range(2)}  # fmt: skip
    sets = {"roneneldan/TinyStories": hub_case.Repository(files), "Skylion007/openwebtext": openwebtext()}
    with hub_case.serving(sets) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setattr(choosing, "sensible_workers", lambda: 1)  # tests/nanogpt/test_pipeline.py has several
        plays = catalogue.CATALOGUE["tiny_shakespeare"]
        nowhere = replace(plays, file=replace(plays.file, homes=()))
        monkeypatch.setitem(catalogue.CATALOGUE, "tiny_shakespeare", nowhere)
        yield hub


def begun(workspace: Path, *arguments: str, rate: float = OF_AN_M4) -> Run:
    """A run whose device is proved, on a machine of `rate` FLOP/s; its public homes are nowhere."""
    run = assembled(workspace, PHASES, Machine(rate), "--set", "data.mirror=http://127.0.0.1:9", *arguments)
    finish(run, DEVICE, proof())
    finish(run, CHECKS, Checks("cpu", passed=0, failed=0, checks=[], warning=""))
    return run


def prepared(run: Run) -> Run:
    configuration(run)
    dataset(run)
    return run


def test_hours_on_a_laptop_learn_from_tinystories_of_which_only_what_is_read_is_prepared(hub, tmp_path):
    run = prepared(begun(tmp_path, *HOURS))
    text = run.facts(PLANNED).text
    assert text is not None and (text.name, text.where) == ("tinystories", "its public home")
    assert text.tokens.tokenizer == "bpe"
    assert text.wanted_bytes < text.bytes / 50 and "stories in simple words" in text.why
    assert "fineweb_edu" in [row.name for row in text.not_chosen]
    fetched, cleaned, tokens = run.facts(FETCHED), run.facts(CLEANED), run.facts(BYTE_PAIRS)
    assert fetched.source == "tinystories" and fetched.pieces >= 1 and fetched.licence == "CDLA-Sharing-1.0"
    assert cleaned.documents > cleaned.duplicates_removed
    config = load_config(run.paths.config("micro"))
    assert (config.data.source, config.data.bpe_vocab_size) == ("tinystories", text.tokens.vocabulary)
    assert len(open_split(run.paths.data / "bpe", "train").tokens) == tokens.splits["train"].tokens > 1000
    assert CHARACTERS.step not in [step.name for step in run.steps()]
    again = begun(tmp_path, *HOURS)
    decisions = {key: again.ledger.decide(again.step(key), again.step(key).settings(again)) for key in
                 (SURVEYED, MEASURED, PLANNED, FETCHED, CLEANED, BYTE_PAIRS)}  # fmt: skip
    assert {key.step: decision.reason for key, decision in decisions.items() if not decision.keep} == {}


def test_a_text_that_cannot_be_had_after_all_gives_way_to_the_next_best_with_a_plan_of_its_own(hub, tmp_path):
    run = begun(tmp_path, *HOURS)
    configuration(run)
    hub.fails.append("data/train-")
    dataset(run)
    text = run.facts(PLANNED).text
    assert text is not None and text.name == "openwebtext" and run.facts(FETCHED).source == "openwebtext"
    assert "tinystories cannot be had" in text.why
    [row] = [row for row in run.journal.remedies if row.remedy == "another text, and another plan"]
    assert row.evidence.startswith("tinystories: ") and row.outcome == "now openwebtext, for micro"


def test_minutes_ask_for_no_more_than_they_can_use_and_learn_characters(hub, tmp_path, shared_data):
    mirror = ["--set", f"data.mirror={shared_data}", "--data", "auto", "--budget", "10m"]
    run = begun(tmp_path, *mirror, rate=2e11)
    configuration(run)
    text = run.facts(PLANNED).text
    assert text is not None and (text.name, text.where) == ("tiny_shakespeare", "a mirror")
    assert text.tokens.tokenizer == "char"
    assert not run.do(FETCHED).pieces and CHARACTERS.step in [step.name for step in run.steps()]
    assert [found.name for found in run.facts(SURVEYED).texts] == ["tiny_shakespeare", "embedded"]
    assert [model.name for model in run.facts(PLANNED).ladder] == ["micro", "mini_model"]


def test_a_run_that_fetched_its_text_before_plans_chose_one_keeps_it(tmp_path, shared_data):
    words = ["--workspace", str(tmp_path), "--set", f"data.mirror={shared_data}"]
    run = assembled(tmp_path, PHASES, None, *words[2:])
    run.do(FETCHED)
    options = parse(words, PHASES)
    assert options.config.data.source == "tiny_shakespeare" and not options.text_by_plan
    assert "--data tiny_shakespeare, with which it began" in options.remembered
    assert parse([*words, "--fresh"], PHASES).config.data.source == "auto"


def test_a_mixture_is_fetched_by_its_weights_and_each_text_has_shards_of_its_own(hub, tmp_path):
    mixture = "data.mixture=[{source: tinystories, weight: 3}, {source: openwebtext}]"
    run = prepared(begun(tmp_path, *HOURS, "--set", mixture))
    assert run.facts(FETCHED).source == "tinystories, openwebtext"
    train = read_manifest(run.paths.data / "bpe").shards["train"]
    assert [shard.source for shard in train] == ["tinystories", "openwebtext"]


def test_a_data_set_of_a_hub_that_a_person_names_is_as_large_as_the_hub_says(hub, tmp_path):
    run = begun(tmp_path, *HOURS, "--data", "hf:roneneldan/TinyStories")
    configuration(run)
    text = run.facts(PLANNED).text
    assert text is not None and (text.name, text.where) == ("hf:roneneldan/TinyStories", "its public home")
    stored = sum(map(len, hub.repositories["roneneldan/TinyStories"].files.values()))
    assert text.bytes == stored != catalogue.CATALOGUE["tiny_shakespeare"].bytes
    assert text.why == "the text that was asked for"
