"""What a study says of attention is what the model computes, and a training that notes it trains the same weights."""

import json
import math
import re

import pytest
import torch

from nanogpt.cli import main
from nanogpt.data.shards import open_split
from nanogpt.export import huggingface
from nanogpt.model.attention import entropy
from nanogpt.results.study import AttentionStudy, EntropyAtStep
from nanogpt.study.attention import (
    _of_training,
    even_weights,
    heads_of,
    repeated_tokens,
    role_of,
    study_attention,
)
from nanogpt.study.subject import Subject, open_subject
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.training.record.metrics import read_metrics
from nanogpt.training.trainer import train
from nanogpt.training.validation import Validator
from nanogpt.weights import checkpoint
from tests.nanogpt.model_case import nanogpt_checkpoint, randomised, small, some_tokens
from tests.nanogpt.trained_case import LETTERS, model, train_into
from tests.nanogpt.training_case import make_data, tiny

pytestmark = pytest.mark.fast

SHAPES = [("modern", {}), ("modern", {"n_kv_head": 2, "qk_norm": False}), ("gpt2", {})]
TEXT = "bad cab fed a head\n"


# In the model


@pytest.mark.parametrize("preset, options", SHAPES)
def test_a_pass_that_returns_attention_computes_what_any_other_does(preset, options):
    network = randomised(small(preset, **options))
    tokens = some_tokens(network.config)
    with torch.no_grad():
        logits, weights = network(tokens, return_attention=True)
        assert torch.allclose(logits, network(tokens)[0], atol=1e-4)
    assert weights.shape == (2, 2, 4, 16, 16)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 4, 16))
    assert not weights.triu(1).any()
    before = weights[..., :9, :9]
    with torch.no_grad():
        assert torch.allclose(network(tokens[:, :9], return_attention=True)[1], before, atol=1e-6)


def test_in_bfloat16_the_weights_are_still_exact_distributions():
    network = randomised(small())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits, weights = network(some_tokens(network.config), return_attention=True)
        plain = network(some_tokens(network.config))[0]
    assert weights.dtype == torch.float32
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 4, 16))
    assert torch.allclose(logits.float(), plain.float(), atol=0.1 * float(plain.std()))


def test_the_residual_stream_is_that_between_the_blocks_and_nothing_watches_afterwards():
    network = randomised(small())
    tokens = some_tokens(network.config)
    with torch.no_grad(), network.traced(residual=True) as trace:
        hidden = network.hidden(tokens)
    assert torch.equal(trace.residual[0], network.embed(tokens, slice(0, 16)))
    assert torch.equal(network.final_norm(trace.residual[-1]), hidden)
    with pytest.raises(RuntimeError, match="in between"), network.traced(residual=True):
        raise RuntimeError("in between")
    with torch.no_grad():
        network(tokens)
    assert len(trace.residual) == 3 and len(trace.attention) == 2
    assert all(layer.attention.watch is None and not layer._forward_hooks for layer in network.layers)


# Roles


def test_known_patterns_have_their_roles():
    even, previous, first = even_weights(12), torch.zeros(12, 12), torch.zeros(12, 12)
    previous[range(1, 12), range(11)] = 1
    previous[0, 0] = 1
    first[:, 0] = 1
    weights = torch.stack([previous, first, even, torch.eye(12)])[None]
    even_entropy = float(entropy(even).mean())
    heads = heads_of(weights, torch.tensor([[0.0, 0.0, 0.0, 0.9]]), even_entropy)
    assert [head.role for head in heads] == ["previous token", "first token", "broad", "induction"]
    assert [round(head.previous_token, 6) for head in heads][::3] == [1.0, 0.0]
    assert heads[2].entropy == pytest.approx(sum(math.log(t) for t in range(1, 13)) / 12)
    assert heads[0].entropy == heads[1].entropy == 0


def test_what_is_on_no_one_place_and_not_everywhere_is_mixed():
    assert role_of(0.5, 0.3, 0.3, None, even_entropy=2.0) == "mixed"


def test_a_model_that_looks_everywhere_evenly_has_the_figures_of_chance():
    network = model()
    with torch.no_grad():
        for layer in network.layers:
            layer.attention.q_norm.weight.zero_()
    study, weights = study_attention(Subject("even", network, LETTERS), TEXT)
    assert torch.allclose(weights, even_weights(16).expand_as(weights), atol=1e-6)
    for head in study.heads:
        assert head.previous_token == pytest.approx(study.chance, abs=1e-6)
        assert head.induction == pytest.approx(study.repetition.chance, abs=1e-6)
        assert head.entropy == pytest.approx(study.even_entropy, abs=1e-5)
        assert head.role == "broad"
    assert study.findings[0].startswith("No head puts 40 %")


def test_on_random_tokens_that_come_twice_the_place_is_that_behind_the_first_time():
    """Heads that look back by exactly the distance: rotated one-hot weights, put in the place of the model's own."""
    network = model()

    def weights(q, k, visible=None):
        T = q.size(2)
        return torch.eye(T).roll(1 - T // 2, 1).expand(q.size(0), 4, T, T)  # from t to t - length + 1

    for layer in network.layers:
        layer.attention.weights = weights
    repetition, induction = repeated_tokens(network, LETTERS)
    assert repetition.length == 8
    assert torch.allclose(induction, torch.ones(2, 4))


def test_a_window_too_short_for_a_repetition_says_nothing_of_induction():
    network = randomised(small(block_size=8, vocab_size=LETTERS.vocab_size))
    study, _ = study_attention(Subject("short", network, LETTERS), TEXT)
    assert study.repetition is None and {head.induction for head in study.heads} == {None}


# The command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training's folder with two checkpoints, and its data."""
    folder = tmp_path_factory.mktemp("training")
    data = make_data(folder / "data")
    train(tiny(max_iters=16, checkpoint_interval=8, eval_interval=8), data, folder / "model")
    return folder / "model", data


def run(*arguments):
    return main(["study", "attention", *map(str, arguments)])


@pytest.mark.parametrize("last, words", [(3.0, "hardly changed, from 3.01 to 3.00"), (2.0, "fell"), (3.2, "rose")])
def test_an_entropy_that_hardly_moves_is_not_said_to_fall(last, words):
    at = [EntropyAtStep(0, [[3.01]]), EntropyAtStep(100, [[last]])]
    study = AttentionStudy("a", ["x", "y"], [], 0.3, 0.5, None, at, [])
    assert f"the mean attention entropy {words}" in _of_training(study)[0]


def test_of_a_training_the_command_draws_its_heads_and_its_checkpoints(trained, tmp_path, capsys):
    folder, data = trained
    assert run(folder, "--data", data, "--layer", 2, "--out", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    files = {line.rpartition("/")[2] for line in lines if line.startswith(str(tmp_path))}
    assert files == {file.name for file in tmp_path.iterdir()} == {
        "heads.svg", "entropy.svg", "maps.svg", "head.svg", "entropy-over-checkpoints.svg",
        "entropy-over-training.svg", "attention.json"}  # fmt: skip
    study = json.loads((tmp_path / "attention.json").read_text())
    assert [row["step"] for row in study["checkpoints"]] == [0, 8, 16]
    assert study["checkpoints"][0]["entropy"] != study["checkpoints"][1]["entropy"]
    assert study["findings"] == lines[: len(study["findings"])]
    assert re.search(
        r"From step 0 to step 16 the mean attention entropy (hardly changed|fell|rose), from", " ".join(lines)
    )


@pytest.mark.parametrize("kind", ["random", "hugging face", "nanoGPT"])
def test_works_on_every_kind_of_model(kind, tmp_path):
    place = tmp_path / "model"
    if kind == "random":
        (tmp_path / "c.yaml").write_text("model: {n_layer: 1, n_head: 2, n_embd: 16, block_size: 16}\n")
        place = f"random:{tmp_path / 'c.yaml'}"
        more = ["--text", TEXT]
    elif kind == "hugging face":
        huggingface.export(model(), LETTERS, place)
        more = ["--text", TEXT]
    else:
        data = make_data(tmp_path / "data", TEXT * 400)
        vocab_size = load_tokenizer(data).vocab_size
        network = randomised(small("gpt2", activation="gelu_erf", bias=True, vocab_size=vocab_size))
        place = nanogpt_checkpoint(tmp_path / "ckpt.pt", network)
        more = ["--data", data]
    assert run(place, *more, "--out", tmp_path / "out") == 0
    assert not (tmp_path / "out/entropy-over-checkpoints.svg").exists()
    assert (tmp_path / "out/head.svg").is_file()


@pytest.mark.parametrize("arguments, words", [
    (["--text", TEXT, "--layer", "7"], "--layer 7: the model has layers 1 to 2"),
    (["--text", TEXT, "--head", "5"], "--head 5: the model has heads 1 to 4"),
    (["--text", ""], "the text: is empty"),
    (["--text", "a"], "the text: is one token; attention needs at least two"),
    (["--text", "ΜΗΝΙΝ ΑΕΙΔΕ ΘΕΑ"], "characters are outside the vocabulary"),
    ([], "which text?"),
])  # fmt: skip
def test_a_mistake_is_one_line(arguments, words, tmp_path, capsys):
    folder = train_into(tmp_path / "model")
    assert run(folder, *arguments, "--out", tmp_path / "out") == 2
    printed = capsys.readouterr()
    assert words in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not (tmp_path / "out").exists()


def test_logits_that_are_no_numbers_are_one_line(tmp_path, capsys):
    folder = train_into(tmp_path / "model")
    network = model()
    with torch.no_grad():
        network.head.weight.fill_(3e38)  # finite, but no sum of its products is
    checkpoint.save_model(folder / "best", network, step=1, facts={})
    assert run(folder, "--text", TEXT, "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        f"nanogpt: {folder}: computes NaN or infinity instead of logits; nothing can be seen in it\n"
    )


# While it trains


def test_each_evaluation_notes_the_entropy_of_the_layers_of_the_weights_of_its_step(trained):
    folder, data = trained
    _, evaluations = read_metrics(folder)
    subject = open_subject(str(folder / "checkpoints/step-00000016"))
    tokens = torch.from_numpy(make_windows(data))
    with torch.no_grad():
        weights = subject.model(tokens, return_attention=True)[1]  # (n_layer, B, n_head, T, T)
    expected = entropy(weights).mean(dim=(1, 2, 3)).tolist()
    assert evaluations[-1]["step"] == 16
    assert evaluations[-1]["attention_entropy"] == pytest.approx(expected, abs=1e-4)


def make_windows(data):
    tokens = open_split(data, "val").tokens
    count = min(2048, len(tokens)) // 16
    return tokens[: count * 16].astype("int64").reshape(count, 16)


def test_noting_it_changes_no_weight_and_no_loss(trained, tmp_path, monkeypatch):
    folder, data = trained
    monkeypatch.setattr(Validator, "attention_entropy", lambda *_: [])
    config = tiny(max_iters=16, checkpoint_interval=8, eval_interval=8)
    train(config, data, tmp_path / "model")
    places = folder, tmp_path / "model"
    noted, plain = (checkpoint.read_manifest(place / "final")["files"]["model.safetensors"] for place in places)
    assert noted == plain
    noted, plain = ([row["val_loss"] for row in read_metrics(place)[1]] for place in places)
    assert noted == plain
