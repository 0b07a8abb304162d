"""What a configuration weighs, known without building it, is what the built model weighs."""

import pytest

from nanogpt.config import Config
from nanogpt.measure import sizes
from nanogpt.model.attention import KVCache
from nanogpt.model.gpt import GPT
from tests.nanogpt.model_case import small

pytestmark = pytest.mark.fast

SHAPES = [
    small(), small("gpt2"), small("gpt2", bias=False, activation="relu2"), small(n_kv_head=2, head_dim=16),
    small(ffn_dim=48, tie_weights=True, qk_norm=False), small(position="learned", norm="layernorm", bias=True),
]  # fmt: skip


@pytest.mark.parametrize("config", SHAPES, ids=range(len(SHAPES)))
def test_counts_are_those_of_the_built_model(config):
    model, counts = GPT(config), sizes.parameters(config)
    assert counts.total == model.num_parameters()
    assert counts.total - counts.embedding == model.num_parameters(non_embedding=True)
    assert counts.matrices == sum(matrix.numel() for matrix in model.matrices())
    assert sizes.flops_per_token(config) == model.flops_per_token()


def test_matrices_are_those_that_muon_sees_apart():
    model = GPT(small(n_kv_head=2))
    blocks = [rows for rows in model.row_blocks().values()]
    assert sum(len(rows) for rows in blocks) == 2 * len(sizes.matrix_shapes(small(n_kv_head=2)))


def test_a_cache_is_as_large_as_predicted():
    config = small(n_kv_head=2)
    cache = KVCache(config)
    held = sum(tensor.nbytes for tensor in [*cache.keys, *cache.values])
    assert sizes.kv_cache_bytes(config) == held


def test_tokens_of_a_step():
    config = Config(model=dict(block_size=16), training=dict(batch_size=3, gradient_accumulation=2))
    assert config.tokens_per_step == 3 * 2 * 16


def test_without_a_vocabulary_nothing_can_be_counted():
    with pytest.raises(ValueError, match="vocab_size"):
        sizes.parameters(small(vocab_size=None))
