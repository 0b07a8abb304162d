"""nanogpt plan, batch-size and profile: what they print, and that mistakes are one line."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from nanogpt import cli
from nanogpt.config import save_config
from nanogpt.training.trainer import train
from tests.nanogpt.training_case import make_data, tiny

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def small_file(tmp_path):
    save_config(tiny(batch_size=2), tmp_path / "tiny.yaml")
    return str(tmp_path / "tiny.yaml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_plan_tells_of_memory_and_work(path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["plan", str(path), "--vocab", "1024"]) == 0
    out = capsys.readouterr().out
    for word in ("parameters", "optimizer", "attention", "feed-forward", "recomputed", "KV cache", "FLOPs",
                 "evaluation", "micro-batch", "at the peak"):  # fmt: skip
        assert word in out
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out and "…" not in out


def test_a_plan_follows_the_command_line(capsys):
    file = str(CONFIGS / "tiny_model.yaml")
    words = ["--vocab", "77", "--micro-batch", "3", "--device", "cuda", "--set", "device.mixed_precision=float16"]
    assert cli.main(["plan", file, *words]) == 0
    out = capsys.readouterr().out
    assert "vocabulary 77" in out and "on cuda in float16, 3 × 128 tokens" in out
    assert "with Python and torch" not in out  # a device's memory is shown without the host's


def test_weights_that_are_there_decide_the_shape_that_is_planned_for(tmp_path, capsys):
    config = tiny(max_iters=4, warmup_iters=1, eval_interval=4)
    data = make_data(tmp_path / "data")
    train(config, data, tmp_path / "base")
    (tmp_path / "tune.yaml").write_text("training: {max_iters: 60}\n")
    assert cli.main(["plan", str(tmp_path / "tune.yaml"), "--set", f"training.init_from={tmp_path / 'base'}"]) == 0
    assert "2 layers of 16, vocabulary 29" in capsys.readouterr().out


def test_a_mistake_in_the_file_is_one_line(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("model: {n_layers: 3}\n")
    for command in ("plan", "batch-size", "profile"):
        assert cli.main([command, str(tmp_path / "bad.yaml")]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_batch_size_shows_what_was_tried_and_remembers(small_file, tmp_path, capsys):
    words = ["batch-size", small_file, "--vocab", "50", "--seconds", "20", "--folder", str(tmp_path / "machine")]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "← taken" in out and "--micro-batch" in out and "as found before" not in out
    assert cli.main(words) == 0
    assert "as found before" in capsys.readouterr().out


def test_a_profile_of_real_data_with_its_picture_and_trace(small_file, tmp_path, capsys):
    data = make_data(tmp_path / "data")
    picture, trace = tmp_path / "profile.svg", tmp_path / "trace.json"
    assert cli.main(["profile", small_file, "--data", str(data), "--steps", "2", "--picture", str(picture),
                     "--trace", str(trace)]) == 0  # fmt: skip
    out = capsys.readouterr().out
    for word in ("forward", "backward", "Muon", "evaluation", "checkpoint", "tokens/s", "matrix products", "100.0 %"):
        assert word in out
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    assert json.loads(trace.read_text())["traceEvents"]
