"""Texts written together: they join, leave, share what they read, and none notices another."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.decoders.torch_decoder import TorchDecoder
from nanogpt.faults import UserError
from nanogpt.inference.batch import Batch
from nanogpt.inference.engine import Engine
from nanogpt.inference.options import LARGEST_SEED, Options
from nanogpt.tokenizers.characters import CharTokenizer

from .model_case import randomised, small

pytestmark = pytest.mark.fast
LETTERS = CharTokenizer("abcdefgh \n")
MODEL = randomised(small(n_layer=2, n_head=2, n_embd=16, block_size=16, vocab_size=LETTERS.vocab_size))
texts = st.text("abcdefgh \n", max_size=24)


class CountingDecoder(TorchDecoder):
    """Counts the tokens that were read at once, and may compute NaN for one of the rows of a step."""

    def __init__(self):
        super().__init__(MODEL)
        self.read, self.broken_row = 0, None

    def prefill(self, prompts, cache, *, every=False):
        self.read += sum(map(len, prompts))
        return super().prefill(prompts, cache, every=every)

    def step(self, tokens, cache):
        logits = super().step(tokens, cache)
        if self.broken_row is not None:
            logits[self.broken_row] = math.nan
        return logits


@pytest.fixture
def engine() -> Engine:
    return Engine(CountingDecoder(), LETTERS)


def finish(batch: Batch, written: dict | None = None) -> dict:
    """{a text: what was written}."""
    written = {} if written is None else written
    while batch:
        for writing, piece in batch.step():
            written[writing] = written.get(writing, "") + piece.text
    return written


@settings(max_examples=12, deadline=None)
@given(
    arrivals=st.lists(st.tuples(texts, st.integers(0, 20), st.integers(0, 4)), min_size=1, max_size=5),
    dropped=st.integers(0, 9),
)
def test_a_text_does_not_notice_who_joins_and_leaves(arrivals, dropped):
    engine = Engine(TorchDecoder(MODEL), LETTERS)
    batch, written, began = Batch(engine), {}, []
    for number, (prompt, count, steps) in enumerate(arrivals):
        options = Options(max_new_tokens=count, seed=number, top_p=0.9 if number % 2 else None)
        began += batch.add(prompt, options)
        for _ in range(steps):
            for writing, piece in batch.step():
                written[writing] = written.get(writing, "") + piece.text
    if dropped < len(began):
        batch.drop(began[dropped])
    finish(batch, written)
    for number, (writing, (prompt, count, _)) in enumerate(zip(began, arrivals, strict=True)):
        top_p = 0.9 if number % 2 else None
        alone = engine.complete(prompt, max_new_tokens=count, seed=number, top_p=top_p)
        assert written.get(writing, "") == alone or (number == dropped and alone.startswith(written.get(writing, "")))
        assert writing.ended and len(batch) == 0


def test_copies_share_what_is_read_and_have_seeds_of_their_own(engine):
    batch = Batch(engine)
    copies = batch.add("abcdefg", Options(max_new_tokens=5, seed=4), copies=3)
    batch.add("abcdefg", Options(max_new_tokens=5, seed=9))
    batch.step()
    assert engine.decoder.read == 7 and len(batch) == 4
    written = finish(batch)
    alone = [engine.complete("abcdefg", max_new_tokens=5, seed=seed) for seed in (4, 5, 6)]
    assert [written[copy] for copy in copies] == [text[1:] for text in alone]
    assert engine.samples("abcdefg", 3, Options(max_new_tokens=5, seed=4)) == alone


def test_the_copies_of_the_largest_seed_begin_at_zero_again(engine):
    batch = Batch(engine)
    largest, second = batch.add("ab", Options(max_new_tokens=9, seed=LARGEST_SEED), copies=2)
    found = finish(batch)
    assert found[largest] == engine.complete("ab", max_new_tokens=9, seed=LARGEST_SEED)
    assert found[second] == engine.complete("ab", max_new_tokens=9, seed=0)


def test_what_the_model_computes_as_nan_ends_that_text_alone(engine):
    batch = Batch(engine)
    (good,), (bad,) = (batch.add(prompt, Options(max_new_tokens=4, temperature=0)) for prompt in ("ab", "cd"))
    batch.step()
    engine.decoder.broken_row = 1
    pieces = dict(batch.step())
    engine.decoder.broken_row = None
    assert "NaN" in str(bad.error) and bad.finish is None and pieces[bad].text == ""
    assert good.error is None and len(batch) == 1
    finish(batch)
    assert good.finish == "length" and good.new_tokens == 4


def test_what_is_known_of_a_text(engine):
    batch = Batch(engine)
    (short,) = batch.add("abc", Options(max_new_tokens=4, temperature=0))
    (long,) = batch.add("a" * 40, Options(max_new_tokens=2, temperature=0))
    (sliding,) = batch.add("a" * 15, Options(max_new_tokens=9, temperature=0))
    batch.step()
    assert (short.prompt_tokens, long.prompt_tokens, sliding.prompt_tokens) == (3, 40, 15)
    assert long.slid and not short.slid and not sliding.slid  # the beginning of `long` is not seen
    finish(batch)
    assert sliding.slid and not short.slid
    assert (short.new_tokens, short.finish) == (4, "length")


def test_pieces_say_what_was_chosen_and_why_it_ends(engine):
    options = Options(max_new_tokens=12, seed=1, alternatives=3)
    pieces = list(engine.stream("ab", options))
    text = "".join(piece.text for piece in pieces)
    assert "".join(token.text for piece in pieces for token in piece.tokens) == text
    assert [piece.finish for piece in pieces] == [None] * 11 + ["length"]
    window = LETTERS.encode("ab").tolist()
    for piece in pieces:
        (token,) = piece.tokens
        logits = engine.decoder.prefill([window], engine.decoder.new_cache())[0].astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum())
        assert token.logprob == pytest.approx(logprobs[token.id], abs=1e-4)
        assert [other.id for other in token.alternatives] == np.argsort(-logprobs)[:3].tolist()
        window.append(token.id)
    stopped = list(engine.stream("ab", Options(max_new_tokens=12, seed=1, stop=text[4:6])))
    assert stopped[-1].finish == "stop" and all(piece.tokens == () for piece in stopped)


def test_no_tokens_are_nothing_to_compute(engine):
    assert [piece.finish for piece in engine.stream("ab", Options(max_new_tokens=0))] == ["length"]
    assert engine.decoder.read == 0


def test_many_beams_are_refused_with_others(engine):
    with pytest.raises(UserError, match="beams: found 2"):
        Batch(engine).add("a", Options(beams=2))


@settings(max_examples=15, deadline=None)
@given(
    parts=st.lists(st.lists(st.integers(1, 5), min_size=2, max_size=3), min_size=1, max_size=3), seed=st.integers(0, 9)
)
def test_a_prompt_may_be_read_in_parts_of_any_lengths(parts, seed):
    """Behind rows of unequal lengths, too; and a row may be cut, copied and joined."""
    decoder, random = TorchDecoder(MODEL), np.random.default_rng(seed)
    rows = min(map(len, parts))
    cache, held = decoder.new_cache(), [[] for _ in range(rows)]
    for part in parts:
        prompts = [random.integers(11, size=count).tolist() for count in part[:rows]]
        logits = decoder.prefill(prompts, cache, every=True)
        held = [[*old, *new] for old, new in zip(held, prompts, strict=True)]
        ends = np.cumsum([len(prompt) for prompt in prompts]) - 1
        for row, tokens in enumerate(held):
            whole = decoder.prefill([tokens], decoder.new_cache())[0]
            np.testing.assert_allclose(logits[ends[row]], whole, atol=1e-5)
    copy = cache.copied([0])
    cache.join(copy)
    assert list(cache.lengths) == [*map(len, held), len(held[0])]
    cut = [max(0, length - 2) for length in cache.lengths]
    cache.cut(cut)
    cache.select([rows, 0])
    logits = decoder.prefill([[3, 4], [5]], cache)
    for row, new in enumerate(([3, 4], [5])):
        whole = decoder.prefill([[*held[0][: cut[0]], *new]], decoder.new_cache())[0]
        np.testing.assert_allclose(logits[row], whole, atol=1e-5)


def test_a_row_holds_no_more_than_a_block():
    decoder = TorchDecoder(MODEL)
    cache = decoder.new_cache()
    decoder.prefill([[1] * 16, [1]], cache)
    with pytest.raises(ValueError, match="17"):
        decoder.step(np.array([1, 1]), cache)
    with pytest.raises(ValueError, match="17"):
        decoder.prefill([[1] * 17], decoder.new_cache())
