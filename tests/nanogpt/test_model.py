"""The model: cached decoding equal to the whole, options that compose."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.model import gpt
from nanogpt.model.attention import KVCache
from nanogpt.model.gpt import GPT
from tests.nanogpt.model_case import randomised, small, some_tokens

pytestmark = pytest.mark.fast


compositions = st.builds(
    small,
    preset=st.sampled_from(["gpt2", "modern"]),
    n_kv_head=st.sampled_from([None, 1, 2, 4]),
    head_dim=st.sampled_from([None, 4, 10]),
    norm=st.sampled_from(["layernorm", "rmsnorm"]),
    position=st.sampled_from(["learned", "rope"]),
    activation=st.sampled_from(["gelu", "relu2", "swiglu"]),
    qk_norm=st.booleans(),
    bias=st.booleans(),
    tie_weights=st.booleans(),
    embedding_norm=st.booleans(),
    zero_init=st.booleans(),
)


@settings(max_examples=20, deadline=None)
@given(config=compositions)
def test_any_composition_trains_and_decodes_with_a_cache(config):
    model = randomised(config)
    tokens = some_tokens(config)
    _, loss = model(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    with torch.no_grad():
        whole, _ = model(tokens)
        cache = KVCache(config, batch_size=2)
        pieces = [model(tokens[:, a:b], cache=cache)[0] for a, b in [(0, 5), (5, 6), (6, 9), (9, 16)]]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("recompute", [False, True])
@settings(max_examples=6, deadline=None)
@given(config=compositions, ends=st.sets(st.integers(1, 14), min_size=1, max_size=3))
def test_documents_by_themselves_have_the_losses_of_each_alone(recompute, config, ends):
    """In float64, where nothing but rounding is between them; learned positions begin anew as well."""
    model = randomised(config).double()
    tokens = some_tokens(config, batch=3) % (config.vocab_size - 1)
    for end in ends:
        tokens[1, end] = config.vocab_size - 1  # row 0 is one document
    tokens[2, 7] = config.vocab_size - 1
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    expected = torch.zeros((), dtype=torch.float64)
    for row, cuts in ((0, []), (1, sorted(ends)), (2, [7])):
        for first, end in pairwise([0, *cuts, 15]):
            expected = expected + model.loss_sum(inputs[row : row + 1, first:end], targets[row : row + 1, first:end])[0]
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    model.document_start, model.gradient_checkpointing = config.vocab_size - 1, recompute
    total, _ = model.loss_sum(inputs, targets)
    found = torch.autograd.grad(total, list(model.parameters()))
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    with model.traced() as trace, torch.no_grad():
        model.hidden(inputs)
    assert not trace.attention[0][2, :, 7:, :7].any() and trace.attention[0][0].tril().gt(0).any()


@settings(max_examples=15, deadline=None)
@given(config=compositions, position=st.integers(1, 15))
def test_the_future_does_not_change_the_past(config, position):
    model = randomised(config)
    tokens = some_tokens(config)
    changed = tokens.clone()
    changed[:, position:] = (changed[:, position:] + 1) % config.vocab_size
    with torch.no_grad():
        before, after = model(tokens)[0], model(changed)[0]
    torch.testing.assert_close(before[:, :position], after[:, :position], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before[:, position], after[:, position])


@pytest.mark.parametrize("preset", ["gpt2", "modern"])
def test_initial_loss_is_that_of_guessing(preset):
    config = small(preset, vocab_size=65, n_embd=64)
    tokens = some_tokens(config, batch=8)
    _, loss = GPT(config)(tokens[:, :-1], tokens[:, 1:])
    assert abs(loss.item() - math.log(65)) < 0.1


def test_the_seed_alone_decides_the_weights():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = GPT(small(), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    second, other = GPT(small(), seed=3), GPT(small(), seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.token_embedding.weight, other.token_embedding.weight)


@pytest.mark.parametrize("preset", ["gpt2", "modern"])
def test_loss_in_chunks_is_the_loss(preset, monkeypatch):
    config = small(preset)
    model, tokens = randomised(config), some_tokens(config)
    targets = tokens.roll(-1, dims=1)
    targets[0, :3] = -1
    _, loss = model(tokens, targets)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    monkeypatch.setattr(gpt, "LOGITS_AT_ONCE", 5 * config.vocab_size)
    _, chunked = model(tokens, targets)
    torch.testing.assert_close(chunked, loss)
    torch.testing.assert_close(torch.autograd.grad(chunked, list(model.parameters())), expected)


def test_loss_sum_counts_what_is_not_ignored():
    config = small()
    model, tokens = randomised(config), some_tokens(config)
    targets = tokens.roll(-1, dims=1)
    targets[1] = -1
    total, count = model.loss_sum(tokens, targets)
    assert count == config.block_size
    torch.testing.assert_close(total / count, model(tokens, targets)[1])


def test_more_than_a_block_is_refused():
    config = small()
    with pytest.raises(ValueError, match="longer than block_size 16"):
        GPT(config)(torch.zeros(1, 17, dtype=torch.int64))


def test_dropout_acts_in_training_alone():
    config = small(dropout=0.5)
    model, tokens = randomised(config), some_tokens(config)
    assert torch.equal(model(tokens)[0], model(tokens)[0])
    model.train()
    assert not torch.equal(model(tokens)[0], model(tokens)[0])


@settings(max_examples=15, deadline=None)
@given(config=compositions)
def test_matrices_and_their_row_blocks_cover_the_blocks(config):
    model = GPT(config)
    rows = model.row_blocks()
    assert set(rows) == set(model.matrices())
    assert all(sum(blocks) == matrix.size(0) for matrix, blocks in rows.items())
    attention = model.blocks[0].attention
    assert rows[attention.qkv.weight] == tuple(
        heads * config.head_width for heads in (config.n_head, config.kv_heads, config.kv_heads)
    )
    embeddings = {id(parameter) for parameter in model.embedding_parameters()}
    assert not embeddings & {id(parameter) for parameter in model.matrices()}


def test_bfloat16_autocast_stays_near_float32():
    config = small(n_embd=64)
    model, tokens = randomised(config), some_tokens(config)
    exact = model(tokens, tokens)[1]
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(tokens, tokens)[1]
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.02)
    rough.backward()


@pytest.mark.parametrize("preset", ["gpt2", "modern"])
def test_gradients_are_those_of_finite_differences(preset):
    config = small(preset, n_embd=8, n_head=2, block_size=4, vocab_size=7, n_layer=1)
    model, tokens = randomised(config).double(), some_tokens(config, batch=1)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(model(tokens, tokens)[1], parameters)
    generator = torch.Generator().manual_seed(2)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            above = loss_at(model, tokens, parameter, direction * 1e-5)
            below = loss_at(model, tokens, parameter, -direction * 1e-5)
        torch.testing.assert_close((above - below) / 2e-5, (gradient * direction).sum(), atol=1e-6, rtol=1e-5)


def loss_at(model, tokens, parameter, shift) -> torch.Tensor:
    parameter.add_(shift)
    loss = model(tokens, tokens)[1]
    parameter.sub_(shift)
    return loss
