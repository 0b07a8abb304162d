"""Beam search finds the likeliest text: against every text that there is."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.decoders.torch_decoder import TorchDecoder
from nanogpt.faults import NonFiniteError, UserError
from nanogpt.inference.engine import Engine
from nanogpt.inference.options import Options
from nanogpt.tokenizers.byte_pairs import BPETokenizer
from nanogpt.tokenizers.characters import CharTokenizer

from .model_case import randomised, small

pytestmark = pytest.mark.fast
LETTERS = CharTokenizer("ab")  # and the unknown
MODEL = randomised(small(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=3))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.of_model(MODEL, LETTERS)


def logprob_of(prompt, written):
    decoder = TorchDecoder(MODEL)
    tokens = [*prompt, *written]
    logits = decoder.prefill([tokens[:-1]], decoder.new_cache(), every=True).astype(np.float64)[len(prompt) - 1 :]
    return sum(row[token] - np.log(np.exp(row).sum()) for row, token in zip(logits, written, strict=True))


@settings(max_examples=4, deadline=None)
@given(prompt=st.text("ab", min_size=1, max_size=4), length=st.integers(1, 4))
def test_enough_beams_find_the_likeliest_of_all_texts(engine, prompt, length):
    window = LETTERS.encode(prompt).tolist()
    texts = itertools.product(range(3), repeat=length)
    best = max(texts, key=lambda written: logprob_of(window, written))
    assert engine.complete(prompt, max_new_tokens=length, beams=3**length) == LETTERS.decode(best)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_a_text_that_has_ended_competes_by_its_penalised_length(engine, length_penalty):
    """A stop of one letter: every text of up to four letters without it, and with it at the end."""
    window, stop = LETTERS.encode("ab").tolist(), 0
    texts = [
        written
        for length in range(1, 5)
        for written in itertools.product(range(3), repeat=length)
        if stop not in written[:-1] and (written[-1] == stop or length == 4)
    ]
    best = max(texts, key=lambda written: logprob_of(window, written) / len(written) ** length_penalty)
    (piece,) = engine.stream("ab", Options(max_new_tokens=4, beams=81, length_penalty=length_penalty, stop="a"))
    assert piece.text == LETTERS.decode(token for token in best if token != stop)
    assert piece.finish == ("stop" if best[-1] == stop else "length")


def test_the_end_of_a_text_ends_a_beam():
    tokenizer = BPETokenizer.train("ab", 257)
    engine = Engine.of_model(randomised(small(block_size=8, vocab_size=257)), tokenizer)
    options = Options(max_new_tokens=5, beams=2, logit_bias={tokenizer.end_of_text: 100.0}, alternatives=1)
    (piece,) = engine.stream("ab", options)
    assert (piece.text, piece.finish) == ("", "stop") and [token.id for token in piece.tokens] == [256]


def test_past_the_window_it_goes_on(engine):
    assert len(engine.complete("ab", max_new_tokens=30, beams=3)) == 30


def test_more_beams_find_no_less_likely_text(engine):
    greedy, wide = (engine.complete("ab", max_new_tokens=5, temperature=0, beams=beams) for beams in (1, 243))
    one, other = (logprob_of(LETTERS.encode("ab").tolist(), LETTERS.encode(text).tolist()) for text in (greedy, wide))
    assert other >= one - 1e-6
    assert engine.complete_batch(["ab", "ba"], max_new_tokens=5, beams=9)[0] == engine.complete(
        "ab", max_new_tokens=5, beams=9
    )


def test_banned_tokens_have_no_beam(engine):
    banned = {0: -math.inf, 2: -math.inf}
    assert engine.complete("ab", max_new_tokens=3, beams=4, logit_bias=banned) == "bbb"


def test_mistakes_and_nan_are_named(engine, monkeypatch):
    with pytest.raises(UserError, match="top_p"):
        engine.stream("a", Options(beams=2, top_p=7))
    assert [piece.finish for piece in engine.stream("a", Options(beams=2, max_new_tokens=0))] == ["length"]
    prefill = TorchDecoder.prefill
    monkeypatch.setattr(TorchDecoder, "prefill", lambda *words, **more: prefill(*words, **more) * math.nan)
    with pytest.raises(NonFiniteError):
        engine.complete("a", beams=2)
