"""The steps that are watched are the trainer's own, and what is measured of them is what happened."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nanogpt import cli
from nanogpt.model.gpt import GPT
from nanogpt.plots.gradients import residual_plot
from nanogpt.records import from_json
from nanogpt.results.study import GradientStudy
from nanogpt.study import gradients
from nanogpt.study.subject import Subject, open_subject
from nanogpt.training.record.metrics import read_metrics
from nanogpt.training.trainer import train
from tests.nanogpt.model_case import randomised, small, some_tokens
from tests.nanogpt.trained_case import LETTERS, train_into
from tests.nanogpt.training_case import saved_case, tiny


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return saved_case(tmp_path_factory.mktemp("case"))


def test_the_steps_of_a_random_model_are_the_first_of_its_training(case, tmp_path):
    """Dropout, clipping and warm-up included: the same losses and gradient norms."""
    train(tiny(max_iters=6), case[1], tmp_path / "m")
    rows, _ = read_metrics(tmp_path / "m")
    place = f"random:{case[0]}"
    subject = open_subject(place, case[1])
    config = gradients.settings_of(place).with_changes({"training.max_iters": 6})
    study = gradients.gradient_study(subject, config, gradients.tokens_of_data(subject, case[1]), steps=6)
    assert [(step.loss, step.gradient_norm) for step in study.steps] == [
        (row["loss"], row["grad_norm"]) for row in rows
    ]
    assert [step.factor for step in study.steps] == pytest.approx([row["learning_rate"] / 0.01 for row in rows])


@pytest.mark.parametrize("preset", ["gpt2", "modern"])
def test_groups_hold_every_parameter_once_and_their_norms_add_up(preset):
    model = randomised(small(preset))
    assert sum(group.parameters for group in gradients.parameter_groups(model)) == model.num_parameters()
    config = tiny().with_changes({"model": model.config.model_dump()})
    tokens = np.arange(400) * 7 % model.config.vocab_size
    study = gradients.gradient_study(Subject("m", model, LETTERS), config, tokens, steps=2, factor=0.1)
    for step in study.steps:
        assert math.hypot(*step.norms) == pytest.approx(step.gradient_norm, rel=1e-4)
        assert all(ratio is not None and 0 < ratio < 1 for ratio in step.ratios)


def test_weights_that_begin_at_zero_have_no_ratio_yet(case):
    place = f"random:{case[0]}"
    subject = open_subject(place, case[1])
    tokens = gradients.tokens_of_data(subject, case[1])
    study = gradients.gradient_study(subject, gradients.settings_of(place), tokens, steps=2)
    empty = {group.kind for group, ratio in zip(study.groups, study.steps[0].ratios, strict=True) if ratio is None}
    assert empty == {"attention output", "feed-forward down", "head"}
    assert study.before.layers[1].stream == study.before.embedded  # each block begins as the identity
    assert study.before.layers[0].attention == study.before.layers[0].feedforward == 0


def test_the_flow_is_that_of_the_forward_pass_and_counts_silent_units():
    model = randomised(small("gpt2"))
    with torch.no_grad():
        model.layers[1].feedforward.up.weight[3:8] = 0
        model.layers[1].feedforward.up.bias[3:8] = 0
    tokens = some_tokens(model.config)
    flow = gradients.residual_flow(model, tokens)
    assert [layer.dead for layer in flow.layers] == [0, 5]
    with torch.no_grad():
        x = model.embed(tokens, slice(0, tokens.size(1)))
        sizes = [x]
        for block in model.layers:
            sizes.append(block(sizes[-1], None, None))
    expected = [float(size.square().mean().sqrt()) for size in sizes]
    assert [flow.embedded, *(layer.stream for layer in flow.layers)] == pytest.approx(expected)


def test_findings_say_where_gradients_vanish():
    model = GPT(small("gpt2", n_layer=4))
    study = gradients.gradient_study(
        Subject("m", model, LETTERS),
        tiny().with_changes({"model": model.config.model_dump()}),
        np.arange(400) * 7 % 50,
        steps=1,
    )
    shrunk = [
        norm / 100 ** (3 - (group.layer or 0)) for group, norm in zip(study.groups, study.steps[0].norms, strict=True)
    ]
    vanishing = replace(study, steps=[replace(study.steps[0], norms=shrunk)])
    assert "vanishes" in gradients.findings(vanishing)[0]
    assert "neither" in study.findings[0]


def test_the_command_writes_figures_and_json_and_leaves_the_model_as_it_was(tmp_path, capsys):
    folder = train_into(tmp_path / "m")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = [
        "study",
        "gradients",
        str(folder),
        "--text",
        "abcd efgh\n" * 20,
        "--steps",
        "3",
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main([*words, "--set", "training.batch_size=2", "--device", "cpu"]) == 0
    study = from_json(GradientStudy, json.loads((tmp_path / "out/gradients.json").read_text()))
    assert len(study.steps) == 3
    output = capsys.readouterr().out
    assert all(sentence in output for sentence in study.findings)
    assert residual_plot(study, tmp_path / "again.svg").read_bytes() == (tmp_path / "out/residual.svg").read_bytes()
    assert all((tmp_path / f"out/{name}.svg").read_text().startswith("<?xml") for name in ("gradients", "updates"))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "more, words",
    [
        (["--text", "abc"], "has 3 tokens; steps of"),
        (["--text", "abcd efgh\n" * 20, "--factor", "1e30"], "a smaller learning rate may help (--factor)"),
        (["--text", "ABCDEFGHIJ" * 20], "are outside the vocabulary"),
        ([], "which text?"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path, capsys, more, words):
    folder = train_into(tmp_path / "m")
    assert cli.main(["study", "gradients", str(folder), *more, "--device", "cpu", "--out", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err.splitlines()
    assert words in error[-1] and sum(line.startswith("nanogpt:") for line in error) == 1
    assert not (tmp_path / "o").exists()


def test_data_of_another_vocabulary_is_one_line(case, tmp_path, capsys):
    folder = train_into(tmp_path / "m")
    assert cli.main(["study", "gradients", str(folder), "--data", str(case[1])]) == 2
    assert "is tokenised otherwise" in capsys.readouterr().err
