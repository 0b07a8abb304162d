"""Generation: the same text as without a cache, whole characters, stops, windows that slide."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.config import Config, ModelConfig, save_config
from nanogpt.decoders.torch_decoder import TorchDecoder
from nanogpt.evaluation.speed import bytes_per_token, decoding_speed
from nanogpt.export import huggingface
from nanogpt.faults import CorruptFileError, NonFiniteError, UserError
from nanogpt.inference.engine import Engine
from nanogpt.inference.text_stream import TextStream
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.byte_pairs import BPETokenizer
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.weights import checkpoint

pytestmark = pytest.mark.fast
LETTERS = CharTokenizer("abcdefgh \n")


def model_for(tokenizer, preset="modern", **options) -> GPT:
    shape = dict(n_layer=2, n_head=2, n_embd=16, block_size=16, vocab_size=tokenizer.vocab_size) | options
    model = GPT(ModelConfig(preset=preset, **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    return model.eval()


@pytest.fixture(params=["gpt2", "modern"])
def engine(request) -> Engine:
    return Engine.of_model(model_for(LETTERS, request.param), LETTERS)


def test_greedy_text_is_that_of_the_full_forward_pass(engine):
    tokens = LETTERS.encode("abc").tolist()
    while len(tokens) < 16:
        with torch.no_grad():
            tokens.append(int(engine.decoder.model(torch.tensor([tokens]))[0][0, -1].argmax()))
    assert engine.complete("abc", max_new_tokens=13, temperature=0) == LETTERS.decode(tokens[3:])


@pytest.mark.parametrize("prompt", ["", "a", "abcdefgh" * 2, "abcdefgh " * 9])
def test_text_goes_on_past_the_window(engine, prompt):
    text = engine.complete(prompt, max_new_tokens=70, seed=1)
    assert len(text) == 70


def test_past_the_window_the_newer_half_is_read_again(engine):
    written = engine.complete("abcdefgh", max_new_tokens=10, temperature=0)
    seen = ("abcdefgh" + written)[:17][-8:]
    with torch.no_grad():
        expected = int(engine.decoder.model(torch.tensor([LETTERS.encode(seen).tolist()]))[0][0, -1].argmax())
    assert written[9] == LETTERS.decode([expected])


def test_a_seed_gives_one_text_and_no_seed_another(engine):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again, other = (engine.complete("a", max_new_tokens=50, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert engine.complete("a", max_new_tokens=50) != engine.complete("a", max_new_tokens=50)
    assert torch.equal(torch.get_rng_state(), state)


def test_text_stops_before_the_stop(engine):
    text = engine.complete("ab", max_new_tokens=60, seed=3)
    stop = text[20:23]
    assert engine.complete("ab", max_new_tokens=60, seed=3, stop=stop) == text[: text.index(stop)]


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(st.text("ab", min_size=1, max_size=4), max_size=12),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_pieces_until_a_stop_are_the_text_until_it(pieces, stops):
    text = "".join(pieces)
    ends = [text.index(stop) for stop in stops if stop in text]
    # Streaming meets the stop that ends first; the whole text, the one that begins first.
    stream, streamed = TextStream(LETTERS, stops), ""
    for piece in pieces:
        streamed += stream.add(piece)
        if stream.ended:
            break
    assert stream.ended == bool(ends)
    streamed += stream.rest()
    assert text.startswith(streamed)
    assert not any(stop in streamed for stop in stops)
    assert streamed == text if not ends else len(streamed) >= min(ends)


def test_no_piece_splits_a_character():
    tokenizer = BPETokenizer.train("añ€😀 " * 3, 257)  # every byte is a token of its own
    text, stream = "añ€😀ñ", TextStream(tokenizer)
    pieces = [stream.write(token) for token in tokenizer.encode(text).tolist()]
    assert [piece for piece in pieces if piece] == list(text) and stream.rest() == ""
    cut = TextStream(tokenizer)
    assert "".join(cut.write(token) for token in tokenizer.encode(text).tolist()[:-1]) + cut.rest() == text[:-1]


def test_the_end_of_a_text_ends_it():
    tokenizer = BPETokenizer.train("abc", 257)
    stream = TextStream(tokenizer, ["bcd"])
    assert [stream.write(token) for token in tokenizer.encode("abc").tolist()] == ["a", "", ""]
    assert stream.write(tokenizer.end_of_text) == "bc" and stream.ended


SHAPES = [dict(preset="gpt2"), dict(preset="modern"), dict(preset="modern", n_head=4, n_kv_head=2)]


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from(SHAPES), prompts=st.lists(st.text("abcdefgh \n", max_size=40), max_size=5),
    count=st.integers(0, 40), seed=st.integers(0, 9), temperature=st.sampled_from([0.0, 0.8]),
    stop=st.none() | st.text("abcdefgh \n", min_size=1, max_size=2),
)  # fmt: skip
def test_a_text_is_the_same_alone_and_in_a_batch(shape, prompts, count, seed, temperature, stop):
    engine = Engine.of_model(model_for(LETTERS, **shape), LETTERS)
    options = dict(max_new_tokens=count, temperature=temperature, stop=stop)
    seeds = [seed + row for row in range(len(prompts))]
    alone = [engine.complete(prompt, seed=seed, **options) for prompt, seed in zip(prompts, seeds, strict=True)]
    assert engine.complete_batch(prompts, seeds=seeds, **options) == alone


@settings(max_examples=25, deadline=None)
@given(shape=st.sampled_from(SHAPES), lengths=st.lists(st.integers(1, 10), min_size=1, max_size=4))
def test_logits_of_unequal_prompts_are_those_of_each_alone(shape, lengths):
    model, generator = model_for(LETTERS, **shape), torch.Generator().manual_seed(0)
    tokens = torch.randint(LETTERS.vocab_size, (len(lengths), 16), generator=generator)
    with torch.no_grad():
        whole = model(tokens)[0].numpy()  # (B, 16, vocab_size)
    decoder = TorchDecoder(model)
    cache = decoder.new_cache()
    found = [decoder.prefill([row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)], cache)]
    for step in range(6):  # each row continues behind its own prompt
        found.append(decoder.step(tokens[torch.arange(len(lengths)), torch.tensor(lengths) + step].numpy(), cache))
    for row, length in enumerate(lengths):
        expected = whole[row, length - 1 : length + 6]
        np.testing.assert_allclose(np.stack(found)[:, row], expected, atol=1e-5, rtol=1e-5)


def test_a_seed_for_each_prompt(engine):
    with pytest.raises(ValueError):
        engine.complete_batch(["a", "b"], seeds=[1])
    first, second = engine.complete_batch(["a", "a"], max_new_tokens=40)
    assert first != second


def test_a_model_that_computes_nan_is_named(engine):
    with torch.no_grad():
        engine.decoder.model.final_norm.weight.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="NaN"):
        engine.complete("a")


def test_options_are_checked_before_the_first_piece(engine):
    with pytest.raises(UserError, match="temperature"):
        engine.generate("a", temperature=-1)


def test_opens_an_export_and_a_training_folder(tmp_path):
    model = model_for(LETTERS)
    huggingface.export(model, LETTERS, tmp_path / "export")
    trained = tmp_path / "trained"
    config = Config(model=model.config.model_copy(update={"vocab_size": None}))
    save_config(config, trained / "config.yaml")
    LETTERS.save(trained)
    checkpoint.save(trained / "best", model, step=3, facts={})
    expected = Engine.of_model(model, LETTERS).complete("abc", seed=1)
    assert Engine.from_folder(tmp_path / "export").complete("abc", seed=1) == expected
    assert Engine.from_folder(str(trained)).complete("abc", seed=1) == expected

    weights = trained / "best" / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CorruptFileError, match=r"model\.safetensors"):
        Engine.from_folder(trained)


def test_a_tokenizer_of_another_model_is_named(tmp_path):
    huggingface.export(model_for(LETTERS), CharTokenizer("abcdefgh \n and more"), tmp_path)
    with pytest.raises(UserError, match=r"its tokenizer has \d+ tokens, its model only 11"):
        Engine.from_folder(tmp_path)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        Engine.from_folder(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no model"):
        Engine.from_folder(tmp_path)
    save_config(Config(), tmp_path / "config.yaml")
    with pytest.raises(UserError, match="no checkpoint yet"):
        Engine.from_folder(tmp_path)


def test_speed_counts_what_it_says(engine):
    speed = decoding_speed(engine.decoder.model, "cpu", max_seconds=0.05)
    assert speed.prompt_tokens == 8
    assert speed.new_tokens >= 1
    assert speed.achieved_bytes_per_second == speed.weight_bytes * speed.tokens_per_second


def test_tables_that_are_looked_up_are_not_read_whole():
    tied, untied = model_for(LETTERS, "gpt2"), model_for(LETTERS, "modern")
    assert bytes_per_token(tied) == 4 * (tied.num_parameters() - 16 * 16)
    assert bytes_per_token(untied) == 4 * untied.num_parameters(non_embedding=True)
