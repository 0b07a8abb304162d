"""The model and its export against the field's reference: transformers' GPT2LMHeadModel and Qwen3ForCausalLM."""

import pytest
import torch

from nanogpt.config import ModelConfig
from nanogpt.export import huggingface
from nanogpt.inference.engine import Engine
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.byte_pairs import BPETokenizer
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.weights import published_settings, published_shapes
from nanogpt.weights.folders import model_of
from nanogpt.weights.hugging_face import HuggingFaceFolder
from tests.nanogpt.model_case import randomised, small, some_tokens


def test_counts_of_the_published_gpt2():
    config = ModelConfig(preset="gpt2", n_layer=12, n_head=12, n_embd=768, block_size=1024, vocab_size=50257)
    with torch.device("meta"):
        model = GPT(config)
    assert model.num_parameters() == 124_439_808
    assert model.flops_per_token() == 6 * (124_439_808 - 1024 * 768) + 12 * 12 * 768 * 1024


@pytest.mark.parametrize(
    "options",
    [
        dict(preset="gpt2"),
        dict(preset="gpt2", bias=False),
        dict(preset="gpt2", activation="relu2"),
        dict(preset="gpt2", activation="gelu_erf"),
        dict(preset="gpt2", tie_weights=False, embedding_norm=True),
        dict(preset="modern"),
        dict(preset="modern", n_kv_head=2),
        dict(preset="modern", head_dim=12, n_kv_head=1),
        dict(preset="modern", position_scale=2.0),
        dict(preset="modern", tie_weights=True),
        dict(preset="modern", embedding_norm=False, tie_weights=True),
    ],
    ids=str,
)
def test_equal_to_transformers(options):
    transformers = pytest.importorskip("transformers")
    config = small(**options)
    model, tokens = randomised(config), some_tokens(config)
    settings_of_reference = published_settings.settings_of(config)
    reference = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**settings_of_reference), attn_implementation="eager"
    ).eval()
    missing, unexpected = reference.load_state_dict(published_shapes.tensors_of(model), strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    reference.tie_weights()
    with torch.no_grad():
        torch.testing.assert_close(reference(tokens).logits, model(tokens)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [dict(preset="gpt2"), dict(preset="modern", n_kv_head=2)], ids=str)
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_an_export_opens_in_transformers(options, kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    text = "the cat sat on the mat, the cat sat on the hat.\n" * 5
    tokenizer = CharTokenizer(text) if kind == "char" else BPETokenizer.train(text, 270)
    model = randomised(small(**options, vocab_size=tokenizer.vocab_size))
    huggingface.export(model, tokenizer, tmp_path)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = their_tokenizer("the cat sat")["input_ids"]
    assert ids == tokenizer.encode("the cat sat").tolist()
    assert their_tokenizer.decode(ids) == "the cat sat"
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(torch.tensor([ids])).logits, model(torch.tensor([ids]))[0], atol=1e-4, rtol=1e-4
        )
    written = theirs.generate(torch.tensor([ids]), max_new_tokens=4, do_sample=False, pad_token_id=0)[0, len(ids) :]
    ours = Engine.of_model(model, tokenizer).complete("the cat sat", max_new_tokens=4, temperature=0)
    assert tokenizer.decode(written.tolist()) == ours


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_what_transformers_saves_opens_here(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=16)
        theirs = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.Qwen3Config(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=12, max_position_embeddings=16, tie_word_embeddings=True,
        )  # fmt: skip
        theirs = transformers.Qwen3ForCausalLM(config)
    theirs.eval().save_pretrained(tmp_path)
    ours = model_of(HuggingFaceFolder(tmp_path))
    tokens = some_tokens(ours.config)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens)[0], theirs(tokens).logits, atol=1e-4, rtol=1e-4)
