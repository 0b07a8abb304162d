"""A model's folder from anywhere: sizes that no weights back, numbers that are none and files without end are one
line each, at once, for every command that opens a model."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from nanogpt import cli
from nanogpt.config import Config, save_config
from nanogpt.export import adapters, huggingface
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.model.lora import add_adapters
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.training.initial_weights import config_with_shape_of
from nanogpt.weights import checkpoint
from nanogpt.weights.folders import open_folder
from tests.nanogpt.model_case import randomised, small
from tests.nanogpt.training_case import make_data
from tests.not_a_file import each_kind

CHECKOUT = Path(__file__).parents[2]
LETTERS = CharTokenizer("abcdefgh \n")
SECONDS = 5.0  # generous: each takes some milliseconds
DEEP = "[" * 100_000
HUGE = [10**9, 10**12, 10**18]
BAD = [*HUGE, 0, -1, 1.5, "many", [], 1e300]


def exported(folder: Path, preset: str = "modern") -> Path:
    huggingface.export(randomised(small(preset, vocab_size=LETTERS.vocab_size)), LETTERS, folder)
    return folder


def trained(folder: Path, preset: str = "modern", adapted: bool = False) -> Path:
    model = randomised(small(preset, vocab_size=LETTERS.vocab_size))
    training = dict(init_from="base", lora_rank=2, lora_alpha=4.0) if adapted else {}
    save_config(Config(model=model.config.model_dump(), training=training), folder / "config.yaml")
    LETTERS.save(folder)
    if adapted:
        add_adapters(model, 2, 4.0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("lora_B"):
                    parameter.fill_(1.0)
    checkpoint.save_model(folder / "best", model, step=1, facts={})
    return folder


def refused(path: Path, *, shape_too: bool = True) -> None:
    """Opening it, and beginning a training of its shape, ends at once and in one line."""
    config = Config(training=dict(init_from=str(path)))
    attempts = [lambda: open_folder(path), lambda: config_with_shape_of(config, path)]
    for attempt in attempts[: 1 + shape_too]:
        began = time.monotonic()
        with pytest.raises((UserError, CorruptFileError)) as caught:
            attempt()
        assert time.monotonic() - began < SECONDS
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def change(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("value", BAD, ids=str)
@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
            "intermediate_size", "max_position_embeddings"],
)  # fmt: skip
def test_sizes_of_an_export(key, value, tmp_path):
    change(exported(tmp_path) / "config.json", **{key: value})
    if (key, value) == ("max_position_embeddings", 10**9):
        pytest.skip("16 GB of positions: too much or not is the machine's memory")
    refused(tmp_path)


@pytest.mark.parametrize("value", [*HUGE, 0, -1], ids=str)
@pytest.mark.parametrize("key", ["n_layer", "n_embd", "n_head", "n_inner", "n_positions", "vocab_size"])
def test_sizes_of_an_export_of_gpt2(key, value, tmp_path):
    if (key, value) == ("n_inner", 0):
        pytest.skip("null and 0 stand for four times the width there")
    change(exported(tmp_path, "gpt2") / "config.json", **{key: value})
    refused(tmp_path)


@pytest.mark.parametrize("preset", ["gpt2", "modern"])
@pytest.mark.parametrize("value", [*HUGE, 0, -1], ids=str)
@pytest.mark.parametrize("key", ["n_layer", "n_embd", "n_head", "n_kv_head", "head_dim", "ffn_dim"])
def test_sizes_of_a_training_folder(preset, key, value, tmp_path):
    trained(tmp_path, preset)
    values = yaml.safe_load((tmp_path / "config.yaml").read_text())
    values["model"][key] = value
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    refused(tmp_path)


@pytest.mark.parametrize("preset, key", [("gpt2", "n_layer"), ("gpt2", "n_embd"), ("gpt2", "block_size")])
@pytest.mark.parametrize("value", [*HUGE, 0, -1], ids=str)
def test_sizes_in_a_checkpoint_of_nanogpt(preset, key, value, tmp_path):
    shape = dict(n_layer=1, n_head=2, n_embd=8, block_size=4, vocab_size=5, bias=False) | {key: value}
    names = {"wte.weight": (5, 8), "wpe.weight": (4, 8), "ln_f.weight": (8,), "h.0.ln_1.weight": (8,),
             "h.0.attn.c_attn.weight": (24, 8), "h.0.attn.c_proj.weight": (8, 8), "h.0.ln_2.weight": (8,),
             "h.0.mlp.c_fc.weight": (32, 8), "h.0.mlp.c_proj.weight": (8, 32)}  # fmt: skip
    tensors = {f"transformer.{name}": torch.zeros(size) for name, size in names.items()}
    torch.save({"model": tensors, "model_args": shape}, tmp_path / "ckpt.pt")
    refused(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    "text", [DEEP, '{"a":' * 100_000, "", "null", "3", '"text"', "[1]", '{"model_type": {}}', "\0"]
)
def test_json_that_is_no_configuration(name, text, tmp_path):
    exported(tmp_path)
    if name.startswith("model"):
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_text(text)
    refused(tmp_path)


@pytest.mark.parametrize("size", [(1, 8), (11, 32, 1), (), (0,)], ids=str)
@pytest.mark.parametrize("preset", ["gpt2", "modern"])
def test_tensors_of_any_size(size, preset, tmp_path):
    exported(tmp_path, preset)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in tensors:
        save_file(tensors | {name: torch.zeros(size)}, tmp_path / "model.safetensors")
        refused(tmp_path, shape_too=False)


@each_kind
@pytest.mark.parametrize("make, name", [
    (exported, "model.safetensors"), (exported, "config.json"), (exported, "tokenizer.json"),
    (trained, "best/model.safetensors"), (trained, "best/manifest.json"), (trained, "config.yaml"),
    (trained, "tokenizer.json"),
])  # fmt: skip
def test_what_is_no_file_in_the_place_of_one(put, make, name, tmp_path):
    folder = make(tmp_path / "model")
    (folder / name).unlink()
    put(folder / name)
    refused(folder, shape_too=name != "tokenizer.json")


def hostile_training(folder: Path) -> Path:
    """A training folder with adapters whose configuration asks for more layers than anyone has."""
    text = (trained(folder, adapted=True) / "config.yaml").read_text()
    adapters.save_apart(folder, folder.with_name("apart"))
    (folder / "config.yaml").write_text(text.replace("n_layer: 2", "n_layer: 9999"))
    assert text != (folder / "config.yaml").read_text()
    return folder


def test_more_layers_than_any_model_has_are_one_line(tmp_path, capsys):
    file = hostile_training(tmp_path / "model") / "config.yaml"
    file.write_text(file.read_text().replace("n_layer: 9999", "n_layer: 1000000000000"))
    assert cli.main(["generate", str(file.parent)]) == 2
    assert "config.yaml: model.n_layer: found 1000000000000" in capsys.readouterr().err


def is_one_line_about_layers(err: str) -> bool:
    return "9,999 layers are configured, the weights are of 2" in err and err.count("\n") == 1


@pytest.mark.parametrize("command", ["generate", "eval", "export", "merge", "adapters"])
def test_every_command_says_so_in_one_line(command, tmp_path, capsys):
    folder, data, out = hostile_training(tmp_path / "model"), make_data(tmp_path / "data"), tmp_path / "out"
    arguments = {
        "generate": [folder], "eval": [folder, "--data", data], "export": [folder, "--out", out],
        "merge": [folder, tmp_path / "apart", "--out", out], "adapters": [folder, "--out", out],
    }[command]  # fmt: skip
    began = time.monotonic()
    assert cli.main([command, *map(str, arguments)]) == 2
    assert is_one_line_about_layers(capsys.readouterr().err)
    assert time.monotonic() - began < SECONDS
    assert not out.exists()


@pytest.mark.slow
def test_a_training_that_would_begin_with_it_says_so_in_one_line(tmp_path):
    folder, data, out = hostile_training(tmp_path / "model"), make_data(tmp_path / "data"), tmp_path / "out"
    shutil.copy(data / "tokenizer.json", folder)
    options = ["--data", data, "--folder", out, "--init", folder]
    command = [sys.executable, "-m", "nanogpt.cli", "train", "configs/micro.yaml", *map(str, options)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and is_one_line_about_layers(done.stderr)


@pytest.mark.parametrize(
    "changes",
    [{"alpha_pattern": {"(": 1.0}}, {"alpha_pattern": {"q_proj": "many"}}, {"alpha_pattern": 3}, {"lora_alpha": {}},
     {"lora_alpha": float("nan")}, {"lora_alpha": 1e300}],
    ids=str,
)  # fmt: skip
def test_adapters_with_settings_of_any_kind(changes, tmp_path, capsys):
    base, folder = exported(tmp_path / "base"), trained(tmp_path / "model", adapted=True)
    adapters.save_apart(folder, tmp_path / "apart")
    change(tmp_path / "apart" / "adapter_config.json", **changes)
    assert cli.main(["merge", str(base), str(tmp_path / "apart"), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "apart" in err
    assert not (tmp_path / "out").exists()


def test_adapters_whose_product_would_fill_the_memory(tmp_path, capsys):
    base, apart = exported(tmp_path / "base"), tmp_path / "apart"
    apart.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
    (apart / "adapter_config.json").write_text(json.dumps(settings))
    wide = torch.zeros(2**21)
    tensors = {f"{name}.lora_A.weight": wide[None], f"{name}.lora_B.weight": wide[:, None].clone()}
    save_file(tensors, apart / "adapter_model.safetensors")
    assert cli.main(["merge", str(base), str(apart), "--out", str(tmp_path / "out")]) == 2
    assert "is of another model" in capsys.readouterr().err


@pytest.mark.parametrize("rank", [0, 1, 3, 10**12])
def test_adapters_of_another_rank_than_is_written(rank, tmp_path, capsys):
    folder = trained(tmp_path / "model", adapted=True)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("lora_rank: 2", f"lora_rank: {rank}"))
    assert cli.main(["adapters", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
