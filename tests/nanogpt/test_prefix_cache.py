"""What was read once is not read again, and no text is another one for it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.decoders.torch_decoder import TorchDecoder
from nanogpt.inference.batch import Batch
from nanogpt.inference.engine import Engine
from nanogpt.inference.options import Options
from nanogpt.inference.prefix_cache import SHORTEST
from nanogpt.tokenizers.characters import CharTokenizer

from .model_case import randomised, small

pytestmark = pytest.mark.fast
LETTERS = CharTokenizer("abcdefgh")
MODEL = randomised(small(n_layer=2, n_head=2, n_embd=16, block_size=64, vocab_size=LETTERS.vocab_size))
A_CONTEXT = 2 * 2 * 16 * 64 * 4  # bytes
BEGINNING = "abcdefgh" * 3


class CountingDecoder(TorchDecoder):
    """Counts the tokens that were read at once."""

    read = 0

    def prefill(self, prompts, cache, *, every=False):
        self.read += sum(map(len, prompts))
        return super().prefill(prompts, cache, every=every)


def engine_that_remembers(contexts: int) -> Engine:
    return Engine(CountingDecoder(MODEL), LETTERS, remembered=contexts * A_CONTEXT)


def read_by(engine: Engine, prompt: str, **options) -> int:
    """The tokens that it reads for `prompt`, whose text is the one without a cache."""
    before = engine.decoder.read
    text = engine.complete(prompt, max_new_tokens=6, seed=3, **options)
    assert text == Engine(TorchDecoder(MODEL), LETTERS).complete(prompt, max_new_tokens=6, seed=3, **options)
    return engine.decoder.read - before


def test_the_next_turn_reads_what_is_new_alone():
    engine = engine_that_remembers(1)
    talk = BEGINNING
    for turn in range(3):
        assert read_by(engine, talk) == (24 if turn == 0 else 4)  # the newest token was written, not read
        talk += engine.complete(talk, max_new_tokens=6, seed=3) + "abc"
    assert read_by(engine, BEGINNING) == 1  # again, from its beginning: a token is read for its logits


def test_texts_that_begin_otherwise_are_read():
    engine = engine_that_remembers(4)
    read_by(engine, BEGINNING)
    assert read_by(engine, "b" + BEGINNING) == 25
    assert read_by(engine, BEGINNING[: SHORTEST - 1] + "aaaa") == SHORTEST + 3  # too little in common


def test_the_text_that_was_used_longest_ago_is_forgotten():
    engine = engine_that_remembers(2)
    first, second, third = (letter + BEGINNING for letter in "abc")
    for prompt in (first, second, first, third):
        read_by(engine, prompt)
    assert [read_by(engine, prompt) for prompt in (first, third, second)] == [1, 1, 25]


def test_without_room_nothing_is_kept():
    engine = Engine(CountingDecoder(MODEL), LETTERS, remembered=A_CONTEXT - 1)
    assert [read_by(engine, BEGINNING) for _ in range(2)] == [24, 24]


def test_a_text_that_was_dropped_is_remembered_and_one_that_slid_is_not():
    engine = engine_that_remembers(1)
    batch = Batch(engine)
    (writing,) = batch.add(BEGINNING, Options(max_new_tokens=50, temperature=0))
    written = "".join(piece.text for _ in range(5) for _, piece in batch.step())
    batch.drop(writing)
    assert read_by(engine, f"{BEGINNING}{written}ab") == 3
    long = "hgfedcba" * 9  # the last 64 of it, and then the newer 32
    assert [read_by(engine, long), read_by(engine, long)] == [96, 96]


@settings(max_examples=8, deadline=None)
@given(
    texts=st.lists(st.tuples(st.integers(0, 24), st.text("ab", max_size=6)), min_size=2, max_size=6),
    together=st.booleans(),
    seed=st.integers(0, 9),
)
def test_a_text_is_the_same_whatever_is_remembered(texts, together, seed):
    prompts = [BEGINNING[:length] + end for length, end in texts]
    engine, plain = engine_that_remembers(3), Engine(TorchDecoder(MODEL), LETTERS)
    options = dict(max_new_tokens=5, temperature=1.0)
    seeds = [seed + row for row in range(len(prompts))]
    expected = [plain.complete(prompt, seed=seed, **options) for prompt, seed in zip(prompts, seeds, strict=True)]
    for _ in range(2):  # the second time all of them are remembered, or as many as fit
        if together:
            assert engine.complete_batch(prompts, seeds=seeds, **options) == expected
        else:
            found = [engine.complete(prompt, seed=seed, **options) for prompt, seed in zip(prompts, seeds, strict=True)]
            assert found == expected
