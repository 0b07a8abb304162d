"""`nanogpt eval`: models of every kind in one command, its files, and what a person may get wrong."""

import json
from pathlib import Path

import pytest
import torch

from nanogpt import cli
from nanogpt.commands.eval_figures import short_names
from nanogpt.config import DataConfig
from nanogpt.evaluation.quality import JudgedModel, judge
from nanogpt.export import huggingface
from nanogpt.records import from_json
from nanogpt.results.quality import QualityReport
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.loading import load_tokenizer
from tests.nanogpt.model_case import nanogpt_checkpoint, randomised, small
from tests.nanogpt.training_case import make_data

pytestmark = pytest.mark.fast
TEXT = "".join(f"the {n} sheep and {n * 7 % 13} goats went over hill {n % 5}.\n" for n in range(2000))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), TEXT)


@pytest.fixture(scope="module")
def models(data, tmp_path_factory):
    """A GPT-2 as an export and as nanoGPT's checkpoint, and an export of another one."""
    folder, tokenizer = tmp_path_factory.mktemp("models"), load_tokenizer(data)
    config = small("gpt2", activation="gelu_erf", vocab_size=tokenizer.vocab_size)
    model, other = randomised(config), randomised(config, seed=1)
    nanogpt_checkpoint(folder / "ckpt.pt", model)
    huggingface.export(randomised(small(vocab_size=tokenizer.vocab_size)), tokenizer, folder / "modern")
    huggingface.export(other, tokenizer, folder / "other")
    return folder


def evaluate(*arguments: object) -> int:
    return cli.main(["eval", *map(str, arguments), "--device", "cpu"])


def test_models_of_every_kind_are_judged_and_compared(models, data, tmp_path, capsys):
    (tmp_path / "new.yaml").write_text("model: {n_layer: 1, n_head: 2, n_embd: 16, block_size: 8}")
    places = [models / "ckpt.pt", models / "modern", f"random:{tmp_path / 'new.yaml'}"]
    file, figures = tmp_path / "e.json", tmp_path / "figures"
    options = ["--window", 8, "--stride", 4, "--baselines", "--samples", 2, "--json", file, "--figures", figures]
    assert evaluate(*places, "--data", data, *options) == 0
    output = capsys.readouterr().out
    report = from_json(QualityReport, json.loads(file.read_text()))
    assert [model.model for model in report.comparison.models] == ["ckpt.pt", "modern", "new.yaml"]
    assert len(report.comparison.differences) == 2 and len(report.writing) == 3
    assert report.comparison.verdict in output and all(line in output for line in report.findings)
    for model in report.comparison.models:
        assert f"{model.model}: test: {model.tokens:,} tokens, windows of 8, one every 4" in output
        assert f"{model.bits_per_byte.value:.4f} ({model.bits_per_byte.low:.4f} to" in output
    assert "5-gram" in output
    drawn = ["ckpt.pt-novelty.svg", "calibration.svg", "modern-novelty.svg", "new.yaml-novelty.svg",
             "position.svg", "size.svg"]  # fmt: skip
    assert sorted(path.name for path in figures.iterdir()) == sorted(drawn)


def test_a_checkpoint_of_nanogpt_costs_what_its_model_costs(models, data, tmp_path):
    tokenizer = load_tokenizer(data)
    model = randomised(small("gpt2", activation="gelu_erf", vocab_size=tokenizer.vocab_size))
    assert evaluate(models / "ckpt.pt", "--data", data, "--json", tmp_path / "e.json") == 0
    found = from_json(QualityReport, json.loads((tmp_path / "e.json").read_text())).comparison
    expected = judge([JudgedModel("ckpt.pt", model, tokenizer, data, 16, 16)], "test")
    assert found.models[0].loss.value == pytest.approx(expected.models[0].loss.value, rel=1e-5)


def test_kept_samples_are_compared_with(models, data, tmp_path, capsys):
    file = tmp_path / "kept.json"
    assert evaluate(models / "modern", "--data", data, "--save-samples", file) == 0
    assert "8 greedy samples are in" in capsys.readouterr().err
    assert evaluate(models / "modern", "--compare-samples", file) == 0
    assert "all 8 greedy samples are as they were (the same weights)" in capsys.readouterr().out
    assert evaluate(models / "other", "--compare-samples", file) == 1
    output = capsys.readouterr().out
    assert "greedy samples differ (other weights)" in output and "at character 0: kept" in output


@pytest.mark.parametrize("arguments, message", [
    (["modern"], "which text? --data DIR"),
    (["modern", "--data", "DATA", "--stride", "17"], "--stride 17: is longer than the window of 16"),
    (["modern", "--data", "DATA", "--window", "17"], "--window 17: the model sees at most 16 tokens"),
    (["modern", "--data", "SHORT", "--split", "test"], "a window of 16 needs 17"),
    (["chinese", "--data", "DATA"], "are outside the vocabulary of chinese"),
    (["modern", "other", "--data", "DATA", "--save-samples", "x.json"], "--save-samples: takes one model, found 2"),
    (["modern", "--compare-samples", "absent.json"], "absent.json: there is no such file; --save-samples"),
    (["loud", "--data", "DATA"], "loud: the loss is NaN or infinite"),
    (["modern", "--data", "DATA", "--samples", "500"], "samples are possible"),
    (["modern", "--data", "DATA", "--json", "DATA"], "is a folder; choose a file in it"),
])  # fmt: skip
def test_a_mistake_is_one_line(arguments, message, models, data, tmp_path, tmp_path_factory, capsys, monkeypatch):
    monkeypatch.chdir(models)
    if "chinese" in arguments:
        tokenizer = CharTokenizer("中文")
        huggingface.export(randomised(small(vocab_size=tokenizer.vocab_size)), tokenizer, tmp_path / "chinese")
    if "loud" in arguments:
        model = randomised(small(vocab_size=load_tokenizer(data).vocab_size))
        with torch.no_grad():
            model.final_norm.weight.fill_(1e38)
            model.head.weight.fill_(1e38)
        huggingface.export(model, load_tokenizer(data), tmp_path / "loud")
    places = {"DATA": data, "chinese": tmp_path / "chinese", "loud": tmp_path / "loud"}
    if "SHORT" in arguments:
        places["SHORT"] = make_data(tmp_path / "short", TEXT[:1010], DataConfig(test_fraction=0.01))
    assert evaluate(*(places.get(word, word) for word in arguments)) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_names_are_as_short_as_they_tell_models_apart():
    assert short_names(["runs/a/best", "runs/b/best"]) == ["a/best", "b/best"]
    assert short_names(["x/a", "y/b"]) == ["a", "b"]
    assert short_names(["x/a", "x/a", "b"]) == ["a", "a (2)", "b"]
    assert short_names(["."]) == [Path.cwd().name]


def test_simple_models_are_not_compared_on_other_bytes(models, data, tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT.replace("over", "\u00fcber"), encoding="utf-8")
    prepared = ["--out", tmp_path / "data", "--tokenizer-of", data, "--allow-unknown"]
    assert cli.main(["prepare", *map(str, [tmp_path / "text.txt", *prepared])]) == 0
    capsys.readouterr()
    assert evaluate(models / "modern", "--data", tmp_path / "data", "--baselines") == 2
    error = capsys.readouterr().err
    assert "it has characters outside its vocabulary" in error and error.count("\n") == 1
