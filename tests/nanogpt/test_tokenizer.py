"""Tokenizers: what is encoded comes back, the same in Hugging Face's own programs, and damage is noticed."""

import json

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer

from nanogpt.faults import CorruptFileError, UserError
from nanogpt.tokenizers import byte_pairs
from nanogpt.tokenizers.byte_pairs import BPETokenizer
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.tokenizers.published import gpt2_tokenizer

pytestmark = pytest.mark.fast
TEXT = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer 1,603 slings\n" * 30
ALPHABET = "\n !ab-é字🙂"


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.train(TEXT, 400)


@pytest.fixture(scope="module")
def hugging_face(bpe):
    return HuggingFaceTokenizer.from_str(json.dumps(bpe.hugging_face()[0]))


@given(st.text(alphabet=ALPHABET))
def test_characters_come_back(text):
    char = CharTokenizer(ALPHABET)
    ids = char.encode(text)
    assert char.decode(ids) == text and len(ids) == len(text)


@given(st.text())
def test_unknown_characters_are_one_token_each(text):
    char = CharTokenizer("abc")
    shown = "".join(character if character in "abc" else "\ufffd" for character in text)
    assert char.decode(char.encode(text)) == shown


def test_characters_are_numbered_in_code_point_order_with_unknown_last():
    char = CharTokenizer("cab")
    assert char.vocab_size == 4 and char.encode("abc").tolist() == [0, 1, 2]
    assert char.encode("z\udcff").tolist() == [3, 3]


@given(text=st.text())
def test_byte_pairs_come_back(bpe, text):
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text and (len(ids) == 0 or ids.max() < bpe.vocab_size)


@given(text=st.text(alphabet=st.sampled_from("to be,thar\n 1'é🙂"), max_size=60))
def test_hugging_face_agrees(bpe, hugging_face, text):
    assert hugging_face.encode(text).ids == bpe.encode(text).tolist()


def test_bytes_of_parts_join_to_the_text(bpe):
    ids = bpe.encode("naïve 🙂 text")
    assert b"".join(bpe.decode_bytes([index]) for index in ids).decode() == "naïve 🙂 text"


def test_the_name_of_a_special_token_is_plain_text(bpe):
    text = "before <|endoftext|> after"
    assert bpe.end_of_text == bpe.vocab_size - 1
    assert bpe.end_of_text not in bpe.encode(text) and bpe.decode(bpe.encode(text)) == text


def test_training_is_repeatable_and_bounded(bpe):
    assert BPETokenizer.train(TEXT, 400).digest == bpe.digest
    assert bpe.vocab_size <= 400 and BPETokenizer.train("ab" * 10, 1000).vocab_size < 300
    assert len(bpe.encode(TEXT)) < len(TEXT) / 2
    with pytest.raises(UserError, match="bpe_vocab_size"):
        BPETokenizer.train(TEXT, 256)


def test_long_text_is_encoded_in_pieces(bpe, monkeypatch):
    monkeypatch.setattr(byte_pairs, "PIECE", 100)
    assert bpe.decode(bpe.encode(TEXT)) == TEXT


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_saved_and_loaded_is_the_same(tmp_path, bpe, kind):
    tokenizer = bpe if kind == "bpe" else CharTokenizer(TEXT)
    files = tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert all(path.is_file() for path in files)
    assert (loaded.name, loaded.digest, loaded.vocab_size) == (kind, tokenizer.digest, tokenizer.vocab_size)
    assert np.array_equal(loaded.encode(TEXT), tokenizer.encode(TEXT))
    reference = HuggingFaceTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert reference.encode(TEXT).ids == tokenizer.encode(TEXT).tolist()
    assert reference.decode(reference.encode(TEXT).ids) == TEXT


def test_another_splitting_rule_survives(tmp_path, bpe):
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"12": 256}
    BPETokenizer(ranks, pattern=r"\p{N}|\P{N}+").save(tmp_path)  # digits never join, as in Qwen
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode("a12").tolist() == [97, 49, 50]


def test_gpt2_is_gpt2(tmp_path, shared_data, monkeypatch):
    if not (shared_data / "tiktoken").is_dir():
        pytest.skip("no GPT-2 vocabulary")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    gpt2 = gpt2_tokenizer(tmp_path, [str(shared_data)])
    text = TEXT + "naïve 🙂\n\n\n   x"
    assert gpt2.encode(text).tolist() == tiktoken.get_encoding("gpt2").encode_ordinary(text)
    assert (gpt2.vocab_size, gpt2.end_of_text, gpt2.name) == (50257, 50256, "gpt2")


def test_no_tokenizer_and_a_damaged_one(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        load_tokenizer(tmp_path)
    without_rule = '{"model": {"type": "BPE", "vocab": {}}, "pre_tokenizer": null}'
    for content in ('{"model": {"type": "BPE"}}', without_rule, "[]", "[" * 100_000):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(CorruptFileError, match=r"tokenizer\.json"):
            load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "vocabulary",
    [
        {"a": 0, "b": 0, "<unknown>": 1},
        {"a": 0, "b": 2, "<unknown>": 4},
        {"a": 1, "b": 0, "<unknown>": 2},
        {"a": 0, "b": 1.5},
        [1, 2],
    ],
    ids=["twice", "holes", "order", "float", "list"],
)
def test_ids_that_are_not_those_of_the_characters_are_refused(tmp_path, vocabulary):
    """Read as if they were, each text would mean another one."""
    content = {"model": {"type": "WordLevel", "vocab": vocabulary}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CorruptFileError, match="is not a tokenizer"):
        load_tokenizer(tmp_path)
