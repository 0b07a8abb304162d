"""Weights that are there: read from each kind of place, with that place's shape, and refused where they do not fit."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nanogpt.config import Config, ModelConfig, save_config
from nanogpt.export import huggingface
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.training.initial_weights import (
    check_vocabulary,
    config_with_shape_of,
    put_initial_weights,
    resampled,
)
from nanogpt.weights import checkpoint
from nanogpt.weights.folders import digest_of
from tests.nanogpt.model_case import nanogpt_checkpoint, randomised, small, some_tokens

LETTERS = CharTokenizer("abcdefgh \n")


def logits(model: GPT) -> torch.Tensor:
    with torch.no_grad():
        return model(some_tokens(model.config))[0]


def begun(path, tokenizer=LETTERS, **model) -> GPT:
    """A model begun with the weights at `path`; `model` is what a person wrote of its shape."""
    config = Config(model=model, training=dict(init_from=str(path)))
    check_vocabulary(path, tokenizer)
    config = config_with_shape_of(config, path)
    fresh = GPT(config.model)
    put_initial_weights(fresh, config)
    return fresh.eval()


def trained(folder: Path, model: GPT, tokenizer=LETTERS) -> Path:
    """What the trainer leaves."""
    save_config(Config(model=model.config.model_dump()), folder / "config.yaml")
    tokenizer.save(folder)
    state = {"progress": {}}
    checkpoint.save(folder / "checkpoints" / "step-00000002", model, step=2, facts={}, state=state)
    for name in ("best", "final"):
        checkpoint.save_model(folder / name, model, step=2, facts={})
    return folder


@pytest.mark.parametrize("place", ["", "best", "final", "checkpoints/step-00000002"])
def test_a_trained_folder_and_each_checkpoint_in_it(place, tmp_path):
    model = randomised(small(vocab_size=LETTERS.vocab_size))
    folder = trained(tmp_path / "trained", model)
    assert torch.equal(logits(begun(folder / place)), logits(model))


@pytest.mark.parametrize("options", [dict(preset="gpt2"), dict(preset="modern", n_kv_head=2)], ids=str)
def test_an_export(options, tmp_path):
    model = randomised(small(**options, vocab_size=LETTERS.vocab_size))
    huggingface.export(model, LETTERS, tmp_path)
    torch.testing.assert_close(logits(begun(tmp_path)), logits(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
@pytest.mark.parametrize("written", ["shards", "pickle"])
def test_a_folder_of_transformers_in_shards_or_pickled(kind, written, tmp_path):
    transformers = pytest.importorskip("transformers")
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=16)
    else:
        config = transformers.Qwen3Config(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=12, max_position_embeddings=16, tie_word_embeddings=True,
        )  # fmt: skip
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB" if written == "shards" else "5GB")
    if written == "pickle":
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    assert len(list(tmp_path.glob("*.safetensors"))) != 1
    ours = begun(tmp_path)
    with torch.no_grad():
        expected = theirs(some_tokens(ours.config)).logits
    torch.testing.assert_close(logits(ours), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "_orig_mod.module."])
def test_a_checkpoint_of_nanogpt(bias, prefix, tmp_path):
    shape = dict(preset="gpt2", activation="gelu_erf", bias=bias, vocab_size=LETTERS.vocab_size)
    model = randomised(small(**shape))
    path = nanogpt_checkpoint(tmp_path / "ckpt.pt", model, prefix)
    ours = begun(path, dropout=0.1)
    assert ours.config == model.config.model_copy(update={"dropout": 0.1})
    assert torch.equal(logits(ours), logits(model))


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harmed",)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"model": {}, "model_args": Harmful()}, r"holds (posix|nt)\.system besides tensors and plain values; refused"),
        ({"model": {}, "model_args": Path("x")}, r"holds pathlib\S* besides tensors and plain values; refused"),
        ({"weights": {}}, "is not a checkpoint of nanoGPT: it has no 'model' and 'model_args'"),
        ({"model": {}, "model_args": {"n_layer": 1}}, "its model_args lack n_head"),
        ({"model": {}, "model_args": dict(n_layer=1, n_head=3, n_embd=32, block_size=4, vocab_size=5, bias=True)},
         "model_args: n_embd 32 is not divisible by n_head 3"),
        ({"model": {}, "model_args": dict(n_layer=1, n_head=4, n_embd=32, block_size=4, vocab_size=99, bias=True)},
         "'wte.weight' is missing"),
        ({"model": {"x": "y"}, "model_args": dict(n_layer=1, n_head=4, n_embd=32, block_size=4, vocab_size=99, bias=1)},
         "expected tensors by their names"),
    ],
)  # fmt: skip
def test_a_pickle_of_anything_else_is_refused_in_one_line(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match=message) as caught:
        begun(tmp_path / "ckpt.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04half"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "ckpt.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"ckpt\.pt: is not a (whole )?file of torch\.save") as caught:
        begun(tmp_path / "ckpt.pt")
    assert "\n" not in str(caught.value)


def test_the_source_decides_the_shape_and_what_contradicts_it_is_named(tmp_path):
    model = randomised(small(n_kv_head=2, vocab_size=LETTERS.vocab_size))
    folder = trained(tmp_path, model)
    assert begun(folder).config == model.config
    assert begun(folder, n_layer=2, n_head=4, n_kv_head=2, head_dim=8, dropout=0.2).config.dropout == 0.2
    with pytest.raises(UserError, match=r"has another architecture: model\.n_layer is 2 there, 3 here, model\.qk_norm"):
        begun(folder, n_layer=3, n_head=4, qk_norm=False)
    with pytest.raises(UserError, match=r"model\.preset is modern there, gpt2 here"):
        begun(folder, preset="gpt2")
    config = Config(model=dict(n_layer=3)).with_changes({"training.init_from": str(folder)})
    with pytest.raises(UserError, match=r"model\.n_embd is 32 there, 384 here"):
        config_with_shape_of(config, folder)  # what was validated before is written, all of it


def test_another_vocabulary_is_refused_and_a_padded_one_is_not(tmp_path):
    model = randomised(small(vocab_size=LETTERS.vocab_size))
    folder = trained(tmp_path / "trained", model)
    with pytest.raises(UserError, match=r"has another tokenizer \(11 tokens, .*nanogpt prepare TEXT --tokenizer-of"):
        begun(folder, CharTokenizer("abcdefgh.\n"))
    huggingface.export(model, LETTERS, tmp_path / "export")
    (tmp_path / "export" / "tokenizer.json").unlink()
    begun(tmp_path / "export", CharTokenizer("abc"))
    with pytest.raises(UserError, match="has 11 tokens, the data 13"):
        begun(tmp_path / "export", CharTokenizer("abcdefghijk\n"))


def test_what_lies_nowhere_or_is_no_model_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no such file or folder"):
        begun(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no model; expected"):
        begun(tmp_path)
    save_config(Config(), tmp_path / "config.yaml")
    LETTERS.save(tmp_path)
    with pytest.raises(UserError, match="there is no checkpoint yet"):
        begun(tmp_path)


def test_shards_that_are_not_there_or_elsewhere_are_named(tmp_path):
    huggingface.export(randomised(small(vocab_size=LETTERS.vocab_size)), LETTERS, tmp_path / "export")
    (tmp_path / "export" / "model.safetensors").rename(tmp_path / "outside.safetensors")
    for name in ("absent.safetensors", "../outside.safetensors", 3):
        index = {"weight_map": {"model.norm.weight": name}}
        (tmp_path / "export" / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(UserError, match="names the file"):
            begun(tmp_path / "export")
    (tmp_path / "export" / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(UserError, match="is not an index of weights"):
        begun(tmp_path / "export")


def test_another_digest_means_other_weights_wherever_they_lie(tmp_path):
    model = randomised(small(vocab_size=LETTERS.vocab_size))
    first, again = trained(tmp_path / "a", model), trained(tmp_path / "b", model)
    other = trained(tmp_path / "c", randomised(model.config, seed=1))
    assert digest_of(first) == digest_of(again) != digest_of(other)
    weights = first / "best" / checkpoint.WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert digest_of(first) != digest_of(again)
    with pytest.raises(CorruptFileError):
        begun(first)


def test_a_checkpoint_of_adapters_alone_is_no_source(tmp_path):
    folder = trained(tmp_path, randomised(small(vocab_size=LETTERS.vocab_size)))
    path = folder / "checkpoints" / "step-00000002" / checkpoint.WEIGHTS
    save_file({"blocks.0.attention.qkv.lora_A": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="holds adapters alone; take best/ or final/"):
        begun(path.parent)


# ---- context


def test_a_longer_context_divides_rotary_positions(tmp_path):
    model = randomised(small(vocab_size=LETTERS.vocab_size))
    folder = trained(tmp_path / "short", model)
    longer = begun(folder, block_size=32)
    assert longer.config.position_scale == 2
    with torch.no_grad():  # every other position of the longer table is one of the shorter
        torch.testing.assert_close(longer.rotary.cos[::2], model.rotary.cos)
    again = begun(trained(tmp_path / "long", longer), block_size=48)
    assert again.config.position_scale == 3
    assert begun(folder, block_size=32, position_scale=1).config.position_scale == 1
    assert begun(folder, block_size=8).config.position_scale == 1


def test_a_longer_context_resamples_learned_positions(tmp_path):
    model = randomised(small("gpt2", vocab_size=LETTERS.vocab_size))
    folder = trained(tmp_path, model)
    longer, table = begun(folder, block_size=32), model.position_embedding.weight
    torch.testing.assert_close(longer.position_embedding.weight[::2], table)
    torch.testing.assert_close(longer.position_embedding.weight[1], (table[0] + table[1]) / 2)
    shorter = begun(folder, block_size=8)
    assert torch.equal(shorter.position_embedding.weight, table[:8])
    tokens = some_tokens(shorter.config)
    with torch.no_grad():
        torch.testing.assert_close(shorter(tokens)[0], model(tokens)[0])


@settings(max_examples=50)
@given(old=st.integers(1, 40), new=st.integers(1, 90))
def test_resampled_positions_stay_between_their_neighbours(old, new):
    table = torch.arange(old, dtype=torch.float32)[:, None].repeat(1, 3)  # row p holds p: a position tells its place
    places = resampled(table, new)[:, 0]
    expected = torch.arange(new) * (old / new if new > old else 1)
    torch.testing.assert_close(places, expected.clamp(max=old - 1).float(), atol=1e-4, rtol=1e-5)


def test_the_configuration_tells_what_was_written():
    assert ModelConfig(preset="gpt2", n_layer=3).model_fields_set == {"preset", "n_layer"}
    assert ModelConfig(preset="gpt2").norm == "layernorm"
