"""The card of a model of a run: all that the run knows of it, and nothing of the machine or of weights before."""

from dataclasses import replace

import pytest

from flows.context.paths import Paths
from flows.ledger.facts import BASELINES, BYTE_PAIRS, EVALUATED, FETCHED, SAMPLES
from flows.report import cards
from nanogpt.export import card, front_matter
from tests.flows.report import report_facts
from tests.flows.report.report_facts import with_step

pytestmark = pytest.mark.fast


@pytest.fixture
def facts(tmp_path):
    return report_facts.complete_facts(tmp_path)


def test_the_card_of_the_best_model_has_what_the_phases_found(facts):
    described = cards.of_run(facts, "tiny")
    assert described.evaluation == facts.of(EVALUATED).models["tiny"] and described.sample.temperature == 0.8
    assert described.shape.vocab_size == 66 and described.shape.block_size == 256
    text = card.text(described)
    for words in ("**tiny has learned: 2.236 bits per byte", "`tiny_shakespeare`: public domain.", "ROMEO:",
                  "| 5-gram | 2.410 |", "--run night", "28,262,400", facts.of(FETCHED).sha256):  # fmt: skip
        assert words in text, words
    assert "/home/ada" not in text


def test_a_model_that_is_not_the_best_has_its_own_figures_and_no_sample(facts):
    described = cards.of_run(facts, "micro")
    assert described.evaluation == facts.of(EVALUATED).models["micro"] and described.sample is None


def test_of_a_model_that_has_just_been_trained_nothing_is_said_that_was_judged_before(facts):
    described = cards.of_training(facts, "tiny", facts.model("tiny").trained)
    assert described.evaluation is None and described.sample is None and not described.baselines
    assert "It was not evaluated on a test split" in card.text(described)


def test_a_persons_text_is_called_by_its_name(facts):
    own = "/home/ada/secret/letters to mum.txt"
    facts = with_step(facts, FETCHED, source=own, origin=own, files=[own], licence=None)
    facts = replace(facts, command=f"python3 -m flows.full_run --workspace /home/ada --data '{own}'")
    text = card.text(cards.of_run(facts, "tiny"))
    assert "`letters to mum.txt`" in text and "--data 'letters to mum.txt'" in text
    assert "ada" not in text and "secret" not in text and "language:" not in text


def test_the_tokens_are_those_of_the_models_tokenizer(facts):
    config = facts.configs["tiny"].with_changes({"data.tokenizer": "bpe"})
    described = cards.of_run(replace(facts, configs={"tiny": config}), "tiny")
    assert described.shape.vocab_size == 1024 and described.text.splits == facts.of(BYTE_PAIRS).splits


def test_what_is_missing_costs_what_it_says_and_nothing_else(facts, tmp_path):
    paths = Paths(tmp_path, "night")
    facts = replace(facts, steps={name: value for name, value in facts.steps.items() if name.startswith("training.")})
    assert [file.name for file in cards.write_all(facts, paths)] == [
        "model_card-micro.md", "model_card-tiny.md",
    ]  # fmt: skip
    assert "a text of unknown name" in (paths.reports / "model_card-tiny.md").read_text()
    assert cards.write_all(replace(facts, configs={}), paths) == []


def test_each_model_has_one_card(facts, tmp_path):
    paths = Paths(tmp_path, "night")
    for name in ("micro", "tiny", "gone"):
        paths.model(name).mkdir(parents=True)
    assert len(cards.write_all(facts, paths)) == 2
    (paths.model("tiny") / "README.md").write_text("of a training that knew less")
    cards.copy_to_models(["micro", "tiny", "gone", "never begun"], paths)
    assert not any((paths.model("gone")).iterdir()) and not paths.model("never begun").exists()
    for name in ("micro", "tiny"):
        own = (paths.model(name) / "README.md").read_bytes()
        assert (
            own == cards.in_reports(name, paths).read_bytes()
            and front_matter.read_mark(paths.model(name)).model == name
        )


def test_baselines_and_samples_count_only_where_they_were_made(facts):
    steps = {name: value for name, value in facts.steps.items() if name not in (BASELINES.step, SAMPLES.step)}
    described = cards.of_run(replace(facts, steps=steps), "tiny")
    assert described.verdict() is None and "not compared with simple models" in card.text(described)


def test_a_card_that_was_cut_or_changed_is_no_card_of_these_weights(facts, tmp_path):
    paths = Paths(tmp_path, "night")
    paths.model("tiny").mkdir(parents=True)
    (paths.model("tiny") / "README.md").write_text("---\nnano")
    assert front_matter.read_mark(paths.model("tiny")) is None
