"""Smaller models: what each method does to the weights, what it says of itself, and the table that compares them."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from nanogpt import cli
from nanogpt.compression import distillation, pruning, recovery, rounding, structured, table
from nanogpt.compression.recommendation import recommend
from nanogpt.config import load_config
from nanogpt.data.data_loader import Samples
from nanogpt.data.shards import open_split
from nanogpt.evaluation.perplexity import evaluate, evaluate_split
from nanogpt.export.formats import FORMATS, write_model
from nanogpt.faults import UserError
from nanogpt.records import from_json
from nanogpt.results.compression import CompressedModel, CompressionTable
from nanogpt.results.quality import Estimate
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.training.trainer import train
from nanogpt.weights.folders import open_folder
from nanogpt.weights.published_shapes import tensors_of
from tests.nanogpt.model_case import randomised, small, some_tokens
from tests.nanogpt.training_case import make_data, tiny

LETTERS = CharTokenizer("abcdefgh")
SHAPES = [
    small(n_head=4, n_kv_head=2, ffn_dim=96),
    small(ffn_dim=80),
    small("gpt2"),
    small("gpt2", tie_weights=False, bias=True),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A model that has learned something: (its folder, its data)."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    config = tiny(max_iters=60, eval_interval=60, checkpoint_interval=60).with_changes(
        {"model.n_head": 4, "model.n_embd": 32}
    )
    train(config, data, folder)
    return folder, data


def some_batches(config, count=3):
    return [(some_tokens(config, 4, seed), some_tokens(config, 4, seed + 100)) for seed in range(count)]


# ---- few bits


@pytest.mark.fast
@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_rounded_weights_are_near_and_small_and_the_original_stays(config):
    model = randomised(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    eight, four = rounding.rounded(model, 8), rounding.rounded(model, 4)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert four.bytes < eight.bytes < 0.45 * 4 * model.num_parameters()
    tokens = some_tokens(config)
    with torch.no_grad():
        logits, by_eight, by_four = (m(tokens)[0] for m in (model, eight.model, four.model))
    off = [(found - logits).pow(2).mean().sqrt().item() for found in (by_eight, by_four)]
    assert 0 < off[0] < 0.05 * logits.std() and off[0] < off[1] < 0.6 * logits.std()


@pytest.mark.fast
@pytest.mark.parametrize("bits, precision", [(8, "q8_0"), (4, "q4_0")])
@pytest.mark.parametrize("shape", [dict(ffn_dim=80, embedding_norm=False), dict(preset="gpt2")], ids=str)
def test_a_rounded_model_is_what_the_gguf_file_holds(bits, precision, shape, tmp_path):
    gguf = pytest.importorskip("gguf")
    model = randomised(small(**shape, vocab_size=LETTERS.vocab_size))
    rounded = rounding.rounded(model, bits)
    write_model(model, LETTERS, FORMATS["gguf"], tmp_path / "small", precision=precision)
    write_model(rounded.model, LETTERS, FORMATS["gguf"], tmp_path / "whole", precision="f32")
    files = [gguf.GGUFReader(tmp_path / name / "model.gguf").tensors for name in ("small", "whole")]
    assert sum(tensor.n_bytes for tensor in files[0]) == rounded.bytes
    for packed, meant in zip(*files, strict=True):
        found = gguf.quants.dequantize(packed.data, packed.tensor_type)
        assert np.array_equal(found.reshape(meant.data.shape), meant.data), packed.name


@pytest.mark.fast
def test_vectors_and_learned_positions_are_not_rounded():
    model = randomised(small("gpt2"))
    four = rounding.rounded(model, 4).model
    assert torch.equal(four.position_embedding.weight, model.position_embedding.weight)
    for name, parameter in four.named_parameters():
        assert parameter.dim() == 2 or torch.equal(parameter, model.get_parameter(name)), name


# ---- zeros


@pytest.mark.fast
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_the_smallest_weights_of_each_matrix_become_zero(share):
    model = randomised(small())
    sparse = pruning.without_smallest(model, share)
    zeros = 0
    for mine, theirs in zip(sparse.model.matrices(), model.matrices(), strict=True):
        gone = mine == 0
        zeros += int(gone.sum())
        assert int(gone.sum()) == int(share * mine.numel())
        assert torch.equal(mine[~gone], theirs[~gone])
        assert not gone.any() or theirs[gone].abs().max() <= theirs[~gone].abs().min()
    masks = -(-sum(matrix.numel() for matrix in model.matrices()) // 8)
    assert sparse.bytes == masks + 4 * (model.num_parameters() - zeros)
    assert sparse.same_products


# ---- heads and rows


@pytest.mark.fast
@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_parts_without_effect_are_what_goes_and_nothing_changes(config):
    model = randomised(config)
    heads, width = config.n_head // config.kv_heads, config.head_width
    narrow = structured.narrower(config, 0.5)
    groups, rows = narrow.kv_heads, narrow.ffn_width
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for block in model.layers:
            dead = torch.randperm(config.kv_heads, generator=generator)[: config.kv_heads - groups]
            for group in dead.tolist():
                block.attention.output.weight[:, group * heads * width : (group + 1) * heads * width] = 0
            dead = torch.randperm(config.ffn_width, generator=generator)[: config.ffn_width - rows]
            block.feedforward.down.weight[:, dead] = 0
    pruned = structured.pruned(model, some_batches(config), keep=0.5)
    assert pruned.config == narrow and pruned.num_parameters() < model.num_parameters()
    assert pruned.config.head_width == width
    tokens = some_tokens(config)
    with torch.no_grad():
        torch.testing.assert_close(pruned(tokens)[0], model(tokens)[0], rtol=1e-4, atol=1e-5)
    assert tensors_of(pruned)  # exports like any other


@pytest.mark.fast
def test_importance_is_what_the_loss_changes_without_a_part():
    """Taylor's first order against the loss itself, with the part made a thousandth smaller."""
    config = small(n_head=4, n_kv_head=2)
    model = randomised(config)
    [(tokens, targets)] = batches = some_batches(config, 1)
    importance = structured.measured(model, batches)
    share = 1e-2
    with torch.no_grad():
        before = model(tokens, targets)[1]
        column = model.layers[1].feedforward.down.weight[:, 5]
        column *= 1 - share
        change = (model(tokens, targets)[1] - before) / share
        column /= 1 - share
        columns = model.layers[0].attention.output.weight[:, 16:]  # the second group's two heads of 8
        columns *= 1 - share
        group_change = (model(tokens, targets)[1] - before) / share
    assert importance.rows[1][5].sqrt().item() == pytest.approx(abs(change.item()), rel=0.1, abs=1e-4)
    assert importance.groups[0][1].sqrt().item() == pytest.approx(abs(group_change.item()), rel=0.1, abs=1e-4)


@pytest.mark.fast
@pytest.mark.parametrize("width, rows", [(336, 256), (64, 32), (48, 32), (32, 24), (40, 30), (1, 1)])
def test_rows_stay_in_whole_blocks_where_there_are_several(width, rows):
    assert structured.narrower(small(ffn_dim=width)).ffn_width == rows


@pytest.mark.fast
def test_where_nothing_can_go_it_says_so():
    with pytest.raises(UserError, match="nothing can go"):
        structured.narrower(small(n_head=1, ffn_dim=1))
    assert structured.narrower(small("gpt2")).n_head == 4  # its published shape holds no fewer


# ---- learning


def test_a_pruned_model_recovers_in_a_short_training(trained, tmp_path, monkeypatch):
    folder, data = trained
    model, tokenizer = open_folder(folder)
    window = model.config.block_size
    samples = Samples(open_split(data, "train").tokens, window, 0)
    narrow = structured.pruned(model, [samples.batch(0, 16)], keep=0.25)
    monkeypatch.setattr(recovery, "TRAINING", recovery.TRAINING.model_copy(update={"max_iters": 40}))
    mended = recovery.recovered(narrow, tokenizer, data, 60.0, "cpu", tmp_path)
    assert mended.config.n_head == narrow.config.n_head and mended.config.ffn_width == narrow.config.ffn_width
    lost, left = (evaluate_split(m, data, "test", window).loss for m in (narrow, mended))
    assert left < lost
    assert list(tmp_path.iterdir()) == []


def test_a_student_begins_with_the_teachers_layers_and_learns_from_it(trained):
    teacher, data = open_folder(trained[0])[0], trained[1]
    shape = distillation.student_shape(teacher.config)
    student = distillation.student_of(teacher, shape)
    assert shape.n_layer == 1 and student.num_parameters() < teacher.num_parameters()
    assert torch.equal(student.layers[0].attention.qkv.weight, teacher.layers[0].attention.qkv.weight)
    window = shape.block_size
    before = evaluate_split(student, data, "test", window).loss
    steps = distillation.distil(teacher, student, data, 40, distillation.TRAINING, clock=itertools.count().__next__)
    assert steps == 39 and evaluate_split(student, data, "test", window).loss < before


@pytest.mark.fast
def test_a_student_of_another_shape_has_its_own_weights_and_the_teachers_vocabulary():
    teacher = randomised(small())
    ladder = small(n_layer=1, n_embd=16, vocab_size=99, block_size=64)
    shape = distillation.student_shape(teacher.config, ladder)
    assert (shape.vocab_size, shape.block_size, shape.n_embd) == (50, 16, 16)
    assert torch.equal(
        distillation.student_of(teacher, shape).token_embedding.weight,
        distillation.student_of(randomised(small(), seed=5), shape).token_embedding.weight,
    )


@pytest.mark.fast
def test_the_loss_of_a_student_is_its_cross_entropy_with_text_and_teacher():
    teacher, student = randomised(small()), randomised(small(n_layer=1), seed=1)
    tokens, targets = some_tokens(small()), some_tokens(small(), seed=9)
    ours, theirs = (torch.log_softmax(m(tokens)[0].double(), -1) for m in (student, teacher))
    text = -ours.gather(2, targets[..., None]).mean()
    divergence = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    found = distillation.distillation_loss(teacher, student, tokens, targets)
    assert found.item() == pytest.approx((text / 2 + divergence / 2).item(), rel=1e-5)
    assert not teacher.head.weight.grad
    same = distillation.distillation_loss(student, student, tokens, targets)
    assert same.item() == pytest.approx((text / 2).item(), rel=1e-5)


# ---- what is recommended


def row(name, size, difference, speed=None, spread=0.005):
    low, high = difference - spread, difference + spread
    return CompressedModel(
        name=name, how="", parameters=1, bytes=size, bits_per_byte=Estimate(2 + difference, 1.9, 2.1),
        difference=Estimate(difference, low, high),
        tokens_per_second=Estimate(speed or 100, 0.95 * (speed or 100), 1.05 * (speed or 100)),
        speed_of=name if speed else "original", backend="torch", seconds=1.0, folder=name,
    )  # fmt: skip


ORIGINAL = row("original", 1000, 0.0, 100, spread=0.0)


@pytest.mark.fast
@pytest.mark.parametrize("rows, smallest, fastest, words", [
    ([row("a", 300, 0.001), row("b", 200, 0.5)], "a", None, "For size: a."),
    ([row("int4", 300, 0.001)], "int4", None, "--to gguf --precision q4_0"),
    ([row("a", 300, 0.016)], None, None, "Undecided: a"),  # 0.011 .. 0.021 with a limit of 0.02
    ([row("a", 300, 0.5)], None, None, "For size: none"),
    ([row("a", 300, -0.1, 150), row("b", 400, 0.0, 200)], "a", "b", "2.00 times"),
    ([row("a", 300, -0.1, 195), row("b", 400, 0.0, 200)], "a", None, "no clear winner"),
    ([row("a", 300, 0.0, 50)], "a", None, "For speed: none"),
    ([row("a", 300, 0.0, 103)], "a", None, "no clear winner"),
    ([row("a", 1200, 0.0, 300)], None, "a", "For speed: a"),
    ([row("a", 300, 0.5, 300)], None, None, "For speed: none"),
    ([], None, None, "For size: none"),
])  # fmt: skip
def test_the_recommendation_follows_from_the_table(rows, smallest, fastest, words):
    found = recommend([ORIGINAL, *rows])
    assert (found.smallest, found.fastest) == (smallest, fastest)
    assert words in " ".join(found.lines)


# ---- the command


def test_the_command_makes_the_models_and_the_table(trained, tmp_path, capsys):
    folder, data = trained
    out = tmp_path / "smaller"
    assert (
        cli.main(["compress", str(folder), "--data", str(data), "--out", str(out), "--seconds", "2", "--device", "cpu"])
        == 0
    )
    shown = capsys.readouterr().out
    found = from_json(CompressionTable, json.loads((out / "table.json").read_text()))
    assert [row.name for row in found.models] == ["original", *table.METHODS] and not found.left_out
    assert (out / "table.md").read_text() in shown
    tokens = open_split(data, "test").tokens[: found.windows * found.window + 1]  # whole windows: the table's
    for row in found.models[1:]:
        assert row.bytes < found.original.bytes and row.name in shown
        model, _ = open_folder(out / row.folder)
        assert model.num_parameters() == row.parameters
        judged = evaluate(model, tokens, found.window, len(tokens))  # a character is a byte here
        assert judged.bits_per_byte == pytest.approx(row.bits_per_byte.value, rel=1e-3)
        assert row.bits_per_byte.low < row.bits_per_byte.value < row.bits_per_byte.high
    by_name = {row.name: row for row in found.models}
    assert by_name["int8"].speed_of == "int8" and "int8" in by_name["int8"].backend
    assert by_name["sparse"].speed_of == "original" and by_name["pruned"].speed_of == "pruned"
    assert abs(by_name["int8"].difference.value) < 0.01 * found.original.bits_per_byte.value


@pytest.mark.fast
@pytest.mark.parametrize("options, words", [
    (["--methods", "int8,int5"], "int5"),
    (["--methods", ","], "method ''"),
    (["--out", "FILE"], "is a file"),
])  # fmt: skip
def test_a_mistake_is_one_line(tmp_path, capsys, options, words):
    (tmp_path / "FILE").touch()
    options = [str(tmp_path / "FILE") if option == "FILE" else option for option in options]
    command = ["compress", str(tmp_path / "none"), "--data", str(tmp_path), "--out", str(tmp_path / "out"), *options]
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_models_that_are_half_made_anew_have_no_table(trained, tmp_path, monkeypatch):
    folder, data = trained
    table.compress(folder, data, tmp_path, 0.5, methods=("int8",))
    assert (tmp_path / "table.json").is_file()

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(table, "_make", killed)
    with pytest.raises(KeyboardInterrupt):
        table.compress(folder, data, tmp_path, 0.5, methods=("int8",))
    assert not (tmp_path / "table.json").exists() and not (tmp_path / "table.md").exists()


def test_what_fits_no_such_model_is_left_out_and_named(trained, tmp_path):
    folder, data = trained
    larger = load_config(folder / "config.yaml").with_changes({"model.n_layer": 4})
    found = table.compress(folder, data, tmp_path / "out", 1.2, methods=("distilled",), student=larger)
    assert "no fewer than the teacher's" in found.left_out["distilled"]
    found = table.compress(folder, data, tmp_path / "out", 0.5, methods=("pruned",))
    assert "too few to learn in" in found.left_out["pruned"] and len(found.models) == 1
    assert "pruned" in (tmp_path / "out/table.md").read_text()


@pytest.mark.fast
def test_a_table_is_a_record_that_survives_json():
    found = CompressionTable([ORIGINAL, replace(ORIGINAL, name="a")], {}, None, "a", ["x"], 3, 16, "cpu")
    assert from_json(CompressionTable, json.loads(json.dumps(table.to_json(found)))) == found
