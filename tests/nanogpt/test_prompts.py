"""A prompt is read as the training text was, and what a model cannot read is reported or refused."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.faults import UserError
from nanogpt.inference.engine import Engine
from nanogpt.inference.prompts import checked, known, normalised
from nanogpt.tokenizers.byte_pairs import BPETokenizer
from nanogpt.tokenizers.characters import CharTokenizer
from tests.nanogpt.model_case import randomised, small

pytestmark = pytest.mark.fast
LETTERS = CharTokenizer("abcdefghijklmnopqrstuvwxyz é\n")


def read(prompt, tokenizer=LETTERS, **options) -> tuple[str, list[str]]:
    remarks = []
    return checked(prompt, tokenizer, remarks.append, **options), remarks


@pytest.mark.parametrize(
    "typed", ["caf\u00e9 au lait\nx", "cafe\u0301 au lait\nx", "\ufeffcafé au lait\r\nx", "café au lait\rx"]
)
def test_one_text_however_it_is_written(typed):
    assert read(typed) == ("café au lait\nx", [])
    model = randomised(small(vocab_size=LETTERS.vocab_size))
    engine = Engine.of_model(model, LETTERS)
    assert engine.complete(typed, seed=1) == engine.complete("café au lait\nx", seed=1)


@given(st.text())
def test_normalising_again_changes_nothing(text):
    once = normalised(text, LETTERS)
    assert normalised(once, LETTERS) == once == unicodedata.normalize("NFC", once)


def test_a_few_unknown_characters_are_told_with_their_share():
    prompt, remarks = read("a good day for ünions and lions")
    assert prompt == "a good day for ünions and lions"
    assert len(remarks) == 1
    assert "1 of 31 characters (3 %) are outside the model's vocabulary: 'ü' (1)" in remarks[0]


def test_many_are_refused_by_name_unless_allowed():
    with pytest.raises(UserError, match=r"4 of 6 characters \(67 %\).*'B' \(2\), 'A' \(1\).*--allow-unknown") as caught:
        read("ABCBde")
    assert "\n" not in str(caught.value)
    assert read("ABCBde", allow_unknown=True)[0] == "ABCBde"


def test_a_backslash_and_n_are_no_line_end():
    _, remarks = read(r"romeo is a man of few words\nand a letter", BPETokenizer.train("romeo " * 99, 260))
    assert len(remarks) == 1 and r"\n is a backslash and a letter here" in remarks[0]


def test_byte_pairs_know_every_character():
    assert read("日本語 😀", BPETokenizer.train("romeo " * 99, 260)) == ("日本語 😀", [])


def test_bytes_that_are_no_text_are_named():
    with pytest.raises(UserError, match="prompt: its character 2 is not text in UTF-8"):
        read("a\udcff")


def test_a_prompt_that_nobody_asked_for_is_left_out_where_it_is_foreign():
    assert known("once upon", LETTERS) == "once upon"
    assert known("Once upon", LETTERS) == ""
    assert known("once", CharTokenizer("abc", closed=True)) == ""
