"""What is said of a trained model is what the parts measure."""

import json
from types import SimpleNamespace

import pytest

from nanogpt.data.shards import open_split
from nanogpt.evaluation import summary
from nanogpt.evaluation.coherence import KNOWN_WORDS_SHARE
from nanogpt.evaluation.perplexity import evaluate_split, nanogpt_measure
from nanogpt.records import from_json, to_json
from nanogpt.results.evaluation import JudgedSamples
from nanogpt.training.trainer import train
from nanogpt.weights.folders import open_folder
from tests.nanogpt.training_case import make_data, tiny

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """(data folder, folder of a model that was trained on it)."""
    folder = tmp_path_factory.mktemp("case")
    data = make_data(folder / "data")
    train(tiny(max_iters=30), data, folder / "model")
    return data, folder / "model"


def test_figures_are_those_of_whole_splits(case):
    data, model = case
    found = summary.summarise(model, data)
    trained, _ = open_folder(model)
    assert found.test == evaluate_split(trained, data, "test", 16)
    assert found.val.tokens == len(open_split(data, "val").tokens) - 1
    assert found.parameters == trained.num_parameters() and found.tokenizer == "char"
    assert found.nanogpt_loss is None  # its windows of 64 do not fit into a block of 16


@pytest.mark.parametrize("block_size", [64, 65])
def test_nanogpts_measure_is_taken_in_its_windows_whatever_the_models_are(case, tmp_path, block_size):
    """A model whose windows are the same is not evaluated twice."""
    data, _ = case
    config = tiny(max_iters=4)
    train(config.with_changes({"model.block_size": block_size}), data, tmp_path / "model")
    found = summary.summarise(tmp_path / "model", data)
    trained, _ = open_folder(tmp_path / "model")
    assert found.nanogpt_loss == pytest.approx(nanogpt_measure(trained, data), rel=1e-6)
    assert summary.summarise(tmp_path / "model", data, with_nanogpts_measure=False).nanogpt_loss is None


def test_each_temperature_is_judged_and_the_middle_one_decides(case):
    data, model = case
    found = summary.sample_and_judge(model, data.parent / "text", (0.1, 1.0, 3.0), tokens=120, seed=1)
    assert [sample.temperature for sample in found.samples] == [0.1, 1.0, 3.0]
    assert all(len(sample.text) == 120 and sample.prompt == found.prompts[0] for sample in found.samples)
    verdict, middle = found.coherence, found.samples[1].coherence
    assert (verdict.coherent, verdict.figures) == (middle.coherent, middle.figures)
    assert verdict.limit == KNOWN_WORDS_SHARE * verdict.reference
    assert from_json(JudgedSamples, json.loads(json.dumps(to_json(found)))) == found


@pytest.mark.parametrize(
    "held_out, prompt",
    [
        ("ty.\n\nROMEO:\nWhat light?\nIt is " + "the east\n" * 9, "\nROMEO:\nWhat light?\nIt is " + "the east\n" * 4),
        ("ty is " + "a long line " * 99, ("is " + "a long line " * 99)[:60]),
        ("w" * 900, "w" * 60),
        ("short\n", "short\n"),
    ],
)
def test_a_prompt_begins_with_a_line_or_at_least_a_word(case, monkeypatch, held_out, prompt):
    data, model = case
    monkeypatch.setattr(summary, "read_split", lambda folder, split: held_out)
    monkeypatch.setattr(summary.Engine, "from_folder", lambda *_: SimpleNamespace(complete=lambda *_, **__: "so"))
    assert summary.sample_and_judge(model, data.parent / "text", (1.0,), tokens=2, seed=1).prompts == [prompt]


def test_decoding_says_what_it_measured_on(case):
    found = summary.decoding(case[1], max_seconds=0.05)
    assert found.tokens_per_second > 0 and found.device == "cpu" and found.threads >= 1
    assert found.peak_memory_bytes > found.weight_bytes
