"""An exported folder: read back equal, opened by transformers, refused when it is not one."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from nanogpt.export import huggingface
from nanogpt.faults import UserError
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.weights.folders import model_of, open_folder
from nanogpt.weights.hugging_face import HuggingFaceFolder
from tests.nanogpt.model_case import randomised, small, some_tokens

pytestmark = pytest.mark.fast
TEXT = "the cat sat on the mat, the cat sat on the hat.\n" * 5
SHAPES = [
    dict(preset="gpt2"),
    dict(preset="gpt2", bias=False, embedding_norm=True),
    dict(preset="modern", n_kv_head=2),
    dict(preset="modern", tie_weights=True),
    dict(preset="modern", tie_weights=True, embedding_norm=False),
    dict(preset="modern", position_scale=2.0),
]


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_read_back_equal(options, tmp_path):
    tokenizer = CharTokenizer(TEXT)
    model = randomised(small(**options, vocab_size=tokenizer.vocab_size))
    files = huggingface.export(model, tokenizer, tmp_path, card="# A model\n")
    assert {path.name for path in files} == {
        "README.md", "SHA256SUMS", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    other, read = open_folder(tmp_path)
    tokens = some_tokens(model.config)
    with torch.no_grad():
        torch.testing.assert_close(other(tokens)[0], model(tokens)[0], atol=1e-5, rtol=1e-5)
    assert read.digest == tokenizer.digest


def test_written_twice_is_the_same_to_the_byte(tmp_path):
    tokenizer = CharTokenizer(TEXT)
    model = randomised(small(vocab_size=tokenizer.vocab_size))
    first = {path.name: path.read_bytes() for path in huggingface.export(model, tokenizer, tmp_path)}
    assert first == {path.name: path.read_bytes() for path in huggingface.export(model, tokenizer, tmp_path)}


def test_an_export_that_is_cut_is_never_taken_for_a_whole_one(tmp_path, monkeypatch):
    tokenizer = CharTokenizer(TEXT)
    huggingface.export(randomised(small(vocab_size=tokenizer.vocab_size)), tokenizer, tmp_path)

    def cut(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(huggingface.durable, "write_bytes", cut)
    with pytest.raises(KeyboardInterrupt):
        huggingface.export(randomised(small(vocab_size=tokenizer.vocab_size), seed=1), tokenizer, tmp_path)
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        open_folder(tmp_path)


def test_options_that_fit_no_published_shape_are_refused(tmp_path):
    model = randomised(small("modern", qk_norm=False))
    with pytest.raises(UserError, match="fit neither published shape"):
        huggingface.export(model, CharTokenizer(TEXT), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_no_export_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        model_of(HuggingFaceFolder(tmp_path))
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match='model_type "bert"'):
        model_of(HuggingFaceFolder(tmp_path))
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="not the configuration of a GPT-2 or Qwen3"):
        model_of(HuggingFaceFolder(tmp_path))
    shape = dict(model_type="gpt2", vocab_size=5, n_layer=1, n_head=3, n_embd=32, n_positions=8)
    (tmp_path / "config.json").write_text(json.dumps(shape))
    with pytest.raises(UserError, match=r"config\.json: n_embd 32 is not divisible by n_head 3") as caught:
        model_of(HuggingFaceFolder(tmp_path))
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_named(tmp_path):
    tokenizer = CharTokenizer(TEXT)
    huggingface.export(randomised(small(vocab_size=tokenizer.vocab_size)), tokenizer, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"does not fit config\.json.*up_proj"):
        model_of(HuggingFaceFolder(tmp_path))
    save_file(weights | {"model.layers.1.mlp.up_proj.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="does not fit") as caught:
        model_of(HuggingFaceFolder(tmp_path))
    assert "\n" not in str(caught.value)
    (tmp_path / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"model\.safetensors: is not a safetensors file"):
        model_of(HuggingFaceFolder(tmp_path))
