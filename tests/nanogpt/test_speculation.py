"""A text is the same one whatever a smaller model guesses, in fewer passes of the model where it guesses well."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.decoders.torch_decoder import TorchDecoder
from nanogpt.export import huggingface
from nanogpt.faults import NonFiniteError, UserError
from nanogpt.inference.engine import Engine
from nanogpt.inference.options import Options
from nanogpt.inference.speculation import GUESSES
from nanogpt.tokenizers.characters import CharTokenizer

from .model_case import randomised, small

pytestmark = pytest.mark.fast
LETTERS = CharTokenizer("abcdefgh \n")


def model(block_size=16, seed=0):
    return randomised(small(n_layer=1, n_head=2, n_embd=16, block_size=block_size, vocab_size=11), seed)


class CountingDecoder(TorchDecoder):
    passes = 0

    def prefill(self, prompts, cache, *, every=False):
        self.passes += 1
        return super().prefill(prompts, cache, every=every)


def engine_with(draft, target=None) -> Engine:
    engine = Engine(CountingDecoder(target or model()), LETTERS)
    engine.draft = TorchDecoder(draft)
    return engine


@settings(max_examples=15, deadline=None)
@given(
    prompt=st.text("abcdefgh \n", max_size=20), count=st.integers(0, 40), seed=st.integers(0, 99),
    options=st.sampled_from([
        dict(temperature=0.0), dict(temperature=0.8), dict(temperature=2.0, top_p=0.9, alternatives=2),
        dict(repetition_penalty=1.3), dict(stop="ab"),
    ]),
    draft=st.sampled_from([model(), model(seed=5), model(block_size=6, seed=5), model(block_size=32, seed=5)]),
)  # fmt: skip
def test_a_text_is_the_same_whatever_is_guessed(prompt, count, seed, options, draft):
    options = Options(max_new_tokens=count, seed=seed, **options)
    pieces = list(engine_with(draft).stream(prompt, options))
    plain = list(Engine.of_model(model(), LETTERS).stream(prompt, options))
    assert [(piece.text, piece.finish) for piece in pieces] == [(piece.text, piece.finish) for piece in plain]
    assert [[token.id for token in piece.tokens] for piece in pieces] == [
        [token.id for token in piece.tokens] for piece in plain
    ]


def test_right_guesses_save_passes():
    engine = engine_with(model(block_size=64), model(block_size=64))  # it guesses with the model's own weights
    assert len(engine.complete("ab", max_new_tokens=50, seed=1)) == 50
    assert engine.decoder.passes == 1 + 50 // (GUESSES + 1)  # the prompt first


def test_nan_of_the_smaller_model_is_no_guess_and_of_the_model_an_error():
    broken = model(seed=5)
    broken.final_norm.weight.data.fill_(math.nan)
    plain = Engine.of_model(model(), LETTERS).complete("ab", max_new_tokens=9, seed=1)
    assert engine_with(broken).complete("ab", max_new_tokens=9, seed=1) == plain
    with pytest.raises(NonFiniteError):
        engine_with(model(), broken).complete("ab")


def test_options_are_checked_before_the_first_piece():
    with pytest.raises(UserError, match="top_p"):
        engine_with(model()).generate("a", top_p=2.0)


def test_a_folder_opens_with_a_smaller_model_of_the_same_tokenizer(tmp_path):
    huggingface.export(model(), LETTERS, tmp_path / "model")
    huggingface.export(model(seed=5), LETTERS, tmp_path / "draft")
    huggingface.export(model(), CharTokenizer("abcdefgh \t"), tmp_path / "other")
    alone = Engine.from_folder(tmp_path / "model", backend="torch").complete("ab", seed=1)
    engine = Engine.from_folder(tmp_path / "model", backend="torch", draft=tmp_path / "draft")
    assert engine.complete("ab", seed=1) == alone
    with pytest.raises(UserError, match="other: has another tokenizer"):
        Engine.from_folder(tmp_path / "model", backend="torch", draft=tmp_path / "other")
