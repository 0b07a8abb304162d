"""The model and its export against the field's reference: transformers' GPT2LMHeadModel and Qwen3ForCausalLM."""

import pytest
import torch

from nanogpt.config import ModelConfig
from nanogpt.export import huggingface
from nanogpt.model.gpt import GPT
from tests.nanogpt.test_model import randomised, small, some_tokens


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
        dict(preset="gpt2", tie_weights=False, embedding_norm=True),
        dict(preset="modern"),
        dict(preset="modern", n_kv_head=2),
        dict(preset="modern", head_dim=12, n_kv_head=1),
        dict(preset="modern", tie_weights=True),
        dict(preset="modern", embedding_norm=False, tie_weights=True),
    ],
    ids=str,
)
def test_equal_to_transformers(options):
    transformers = pytest.importorskip("transformers")
    config = small(**options)
    model, tokens = randomised(config), some_tokens(config)
    settings_of_reference = huggingface.reference_config(model)
    reference = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**settings_of_reference), attn_implementation="eager"
    ).eval()
    missing, unexpected = reference.load_state_dict(huggingface.weights(model), strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    reference.tie_weights()
    with torch.no_grad():
        torch.testing.assert_close(reference(tokens).logits, model(tokens)[0], atol=1e-4, rtol=1e-4)
