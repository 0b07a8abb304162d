"""The weights are those that the model itself mixes its values with, in each layer and head."""

import pytest
import torch

from nanogpt.export import huggingface
from nanogpt.faults import UserError
from nanogpt.study.last_attention import attention_of_text, last_attention
from nanogpt.tokenizers.characters import CharTokenizer
from tests.nanogpt.model_case import randomised, small, some_tokens

pytestmark = pytest.mark.fast

SHAPES = [("modern", {}), ("modern", {"n_kv_head": 2}), ("modern", {"qk_norm": False}), ("gpt2", {})]


def seen(model, tokens):
    """For each attention layer of a whole forward pass: what went in, and what came out."""
    found = []
    hooks = [
        block.attention.register_forward_hook(lambda module, given, came: found.append((module, given, came)))
        for block in model.layers
    ]
    with torch.no_grad():
        model(tokens[None])
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("length", [1, 7, 16])
@pytest.mark.parametrize("preset, options", SHAPES)
def test_equals_a_softmax_over_all_scores_and_gives_what_the_layer_gives(preset, options, length):
    model = randomised(small(preset, **options))
    tokens = some_tokens(model.config)[0, :length]
    weights = last_attention(model, tokens)
    assert weights.shape == (model.config.n_layer, model.config.n_head, length)
    for layer, (module, (x, rotation, _), came) in zip(weights, seen(model, tokens), strict=True):
        heads = module.qkv(x).unflatten(-1, (-1, module.head_dim))
        q, k, v = (part.double() for part in module.queries_keys_values(heads, rotation))
        groups = module.n_head // module.n_kv_head
        mixed = []
        for head in range(module.n_head):
            scores = q[0, head] @ k[0, head // groups].T / module.head_dim**0.5  # (T, T)
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
            assert torch.allclose(layer[head].double(), scores.softmax(-1)[-1], atol=1e-6)
            mixed.append(layer[head].double() @ v[0, head // groups])
        assert torch.allclose(module.output(torch.cat(mixed).float()), came[0, -1], atol=1e-4)


@pytest.mark.parametrize("length", [0, 17])
def test_refuses_no_token_and_more_than_the_context(length):
    model = randomised(small())
    with pytest.raises(ValueError, match=f"1 to 16 tokens, found {length}"):
        last_attention(model, torch.zeros(length, dtype=torch.int64))


@pytest.fixture
def folder(tmp_path):
    tokenizer = CharTokenizer("abcdef \n")
    huggingface.export(randomised(small(vocab_size=tokenizer.vocab_size)), tokenizer, tmp_path)
    return tmp_path


def test_of_a_text_the_last_tokens_count(folder):
    tokens, weights = attention_of_text(folder, "fed " * 10)
    assert tokens == list("fed " * 4)
    assert weights.shape == (2, 4, 16)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 4))


def test_a_model_that_was_written_anew_is_read_anew(folder):
    before = attention_of_text(folder, "abc")[1]
    huggingface.export(randomised(small(vocab_size=9), seed=5), CharTokenizer("abcdef \n"), folder)
    assert not torch.equal(attention_of_text(folder, "abc")[1], before)


def test_an_empty_text_and_a_folder_without_a_model_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="text: is empty"):
        attention_of_text(folder, "")
    with pytest.raises(UserError, match="no such file or folder"):
        attention_of_text(tmp_path / "gone", "abc")
