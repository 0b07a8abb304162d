"""Training that starts from existing weights: on another text, with adapters, in a longer context, interrupted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from nanogpt import cli
from nanogpt.config import Config
from nanogpt.data import shards
from nanogpt.evaluation.perplexity import evaluate_split
from nanogpt.export import adapters, huggingface
from nanogpt.faults import UserError
from nanogpt.inference.engine import Engine
from nanogpt.model.gpt import GPT
from nanogpt.results.text import TokenSplit
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.training.initial_weights import config_with_shape_of, put_initial_weights
from nanogpt.training.record.metrics import read_rows
from nanogpt.training.trainer import train
from nanogpt.weights import checkpoint, folders
from tests.nanogpt.training_case import TEXT, assert_same, events, make_data, tiny, train_with_stops

OTHER = "".join(f"{n} goats went over the hill; {n * 5 % 11} sheep and {n % 3} went there.\n" for n in range(300))
GENTLE = dict(max_iters=40, eval_interval=20, learning_rate=3e-3, muon_learning_rate=5e-3, embedding_learning_rate=5e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    # All characters of OTHER are in it, so that the same tokenizer reads both.
    return make_data(tmp_path_factory.mktemp("data"), TEXT + ";;\n")


@pytest.fixture(scope="module")
def base(data, tmp_path_factory) -> Path:
    """A model of TEXT."""
    folder = tmp_path_factory.mktemp("base")
    train(tiny(max_iters=120, eval_interval=60, checkpoint_interval=60), data, folder)
    return folder


@pytest.fixture(scope="module")
def other_data(base, tmp_path_factory) -> Path:
    """OTHER as the model reads it."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "other.txt").write_text(OTHER)
    words = ["prepare", str(folder / "other.txt"), "--tokenizer-of", str(base), "--out", str(folder / "data")]
    assert cli.main(words) == 0
    return folder / "data"


def going_on(base: Path, **training) -> Config:
    return tiny(**{**GENTLE, "init_from": str(base), **training})


def loss_of(folder: Path, data: Path) -> float:
    return evaluate_split(folders.open_folder(folder)[0], data, "val", 16).loss


def test_fine_tuned_on_another_text_it_is_better_there_than_before_and_than_from_scratch(base, other_data, tmp_path):
    before = loss_of(base, other_data)
    outcome = train(going_on(base), other_data, tmp_path / "tuned")
    scratch = train(going_on(base, init_from=None), other_data, tmp_path / "scratch")
    assert outcome.best_val_loss < before
    assert outcome.best_val_loss < scratch.best_val_loss
    assert loss_of(tmp_path / "tuned", other_data) == pytest.approx(outcome.best_val_loss, abs=1e-5)
    assert "trained model" in events(tmp_path / "tuned", "initial weights")[0]["message"]


def test_fine_tuning_stopped_and_resumed_ends_in_the_same_bytes(base, other_data, tmp_path):
    config = going_on(base, max_iters=16, eval_interval=8)
    whole = train(config, other_data, tmp_path / "whole")
    outcome = train_with_stops(config, other_data, tmp_path / "stopped", 5)
    assert_same(outcome, whole, tmp_path / "stopped", tmp_path / "whole")


def test_weights_that_changed_since_are_another_training(base, other_data, data, tmp_path):
    source = tmp_path / "source"
    train(tiny(max_iters=4, warmup_iters=1, eval_interval=2), data, source)
    config = going_on(source, max_iters=4, eval_interval=2)
    train(config, other_data, tmp_path / "tuned")
    assert train(config, other_data, tmp_path / "tuned").status == "finished"
    train(tiny(max_iters=8, warmup_iters=1, eval_interval=2), data, source)
    with pytest.raises(UserError, match=r"training\.init_from \w{12} -> \w{12}"):
        train(config, other_data, tmp_path / "tuned")


# ---- adapters

LORA = dict(lora_rank=4, lora_alpha=8, learning_rate=0.02)


@pytest.fixture(scope="module")
def adapted(base, other_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapted") / "model"
    train(going_on(base, **LORA), other_data, folder)
    return folder


def test_adapters_make_it_better_and_change_no_other_weight(base, adapted, other_data):
    assert loss_of(adapted, other_data) < loss_of(base, other_data)
    before, after = (checkpoint.load(folder / "best").weights for folder in (base, adapted))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("blocks.") and before[name].dim() == 2}


def test_checkpoints_of_adapters_hold_adapters_alone(adapted):
    newest = sorted((adapted / "checkpoints").glob("step-*"))[-1]
    with safe_open(newest / checkpoint.WEIGHTS, framework="pt") as file:
        assert all(name.endswith(("lora_A", "lora_B")) for name in file.keys())  # noqa: SIM118 (it is no dictionary)
    assert len(checkpoint.load(newest).state["optimizer"]["adamw"]["state"]) == 2 * 4 * 2  # A, B x matrices x layers


@pytest.mark.parametrize("settings", [dict(), dict(weight_average=0.9)], ids=["", "averaged"])
def test_adapters_stopped_and_resumed_end_in_the_same_bytes(base, other_data, tmp_path, settings):
    config = going_on(base, **LORA, max_iters=16, eval_interval=8, **settings)
    whole = train(config, other_data, tmp_path / "whole")
    outcome = train_with_stops(config, other_data, tmp_path / "stopped", 5)
    assert_same(outcome, whole, tmp_path / "stopped", tmp_path / "whole")


def test_exported_merged_and_apart_it_computes_the_same(base, adapted, other_data, tmp_path):
    expected = loss_of(adapted, other_data)
    for words in (
        ["export", str(adapted), "--out", str(tmp_path / "export")],
        ["adapters", str(adapted), "--out", str(tmp_path / "apart")],
        ["merge", str(base), str(tmp_path / "apart"), "--out", str(tmp_path / "merged")],
    ):
        assert cli.main(words) == 0
    assert loss_of(tmp_path / "export", other_data) == pytest.approx(expected, abs=1e-5)
    assert loss_of(tmp_path / "merged", other_data) == pytest.approx(expected, abs=1e-5)
    apart, whole = tmp_path / "apart" / adapters.WEIGHTS, tmp_path / "export" / "model.safetensors"
    assert apart.stat().st_size < whole.stat().st_size


# ---- context


@pytest.mark.parametrize("preset", ["modern", "gpt2"])
def test_a_longer_context_is_learned_in_a_few_steps(preset, data, tmp_path):
    shape = dict(preset=preset, n_layer=2, n_head=2, n_embd=32)
    base, training = tmp_path / "base", dict(max_iters=150, eval_interval=150, optimizer="adamw", learning_rate=3e-3)
    train(tiny(**training).with_changes({"model": {**shape, "block_size": 32}}), data, base)
    config = going_on(base, max_iters=30, eval_interval=30).with_changes({"model": {**shape, "block_size": 64}})
    shaped = config_with_shape_of(config, base)
    model = GPT(shaped.model)
    put_initial_weights(model, shaped)
    before = evaluate_split(model.eval(), data, "val", 64).loss
    after = train(config, data, tmp_path / "longer").best_val_loss
    assert after < before
    message = events(tmp_path / "longer", "initial weights")[0]["message"]
    assert ("context 32 -> 64, positions divided by 2" if preset == "modern" else "context 32 -> 64") in message
    huggingface.export(folders.open_folder(tmp_path / "longer")[0], load_tokenizer(data), tmp_path / "export")
    assert evaluate_split(folders.open_folder(tmp_path / "export")[0], data, "val", 64).loss == pytest.approx(after)


def test_what_contradicts_the_source_is_refused_before_anything_is_written(base, data, tmp_path):
    config = Config(model=dict(n_layer=2, n_head=2, n_embd=32), training=dict(init_from=str(base)))
    with pytest.raises(UserError, match=r"has another architecture: model\.n_embd is 16 there, 32 here") as caught:
        train(config, data, tmp_path / "x")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_data_with_an_alphabet_of_its_own_is_trained_on_and_sampled(tmp_path):
    """Four letters and no new line, which samples otherwise begin with."""
    tokenizer = CharTokenizer("ACGT", closed=True)
    ids = np.random.default_rng(0).integers(0, 4, 2000)
    sizes = TokenSplit(tokens=2000, bytes=2000, characters=2000)
    shards.write_folder(tmp_path / "data", tokenizer, {name: (ids, sizes) for name in ("train", "val")}, "0" * 64)
    config = tiny(max_iters=4, eval_interval=2, sample_interval=4)
    train(config, tmp_path / "data", tmp_path / "model")
    samples = [row["text"] for row in read_rows(tmp_path / "model" / "samples.jsonl")]
    assert samples and all(text and set(text) <= set("ACGT") for text in samples)
    with pytest.raises(UserError, match=r"has no id for the character '\\n'"):
        Engine.from_folder(tmp_path / "model").generate("\n")  # before a piece is asked for


def test_a_text_in_other_characters_is_refused_with_the_command_that_helps(base, tmp_path):
    data = make_data(tmp_path, OTHER.replace("e", "é") + "!?")
    with pytest.raises(UserError, match=r"has another tokenizer .* nanogpt prepare TEXT --tokenizer-of"):
        train(going_on(base), data, tmp_path / "x")
