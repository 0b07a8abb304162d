"""Tokenizers: what is encoded comes back, the same in Hugging Face's own programs, and damage is noticed."""

import json
import random
import time

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer

from nanogpt.faults import CorruptFileError, UserError
from nanogpt.tokenizers import byte_pairs
from nanogpt.tokenizers.byte_pairs import CHAT_TOKENS, BPETokenizer
from nanogpt.tokenizers.character_bytes import CharBytesTokenizer
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.tokenizers.patterns import CL100K_PATTERN, O200K_PATTERN
from nanogpt.tokenizers.published import gpt2_tokenizer
from nanogpt.tokenizers.tokenizer import END_OF_TEXT

pytestmark = pytest.mark.fast
TEXT = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer 1,603 slings\n" * 30
ALPHABET = "\n !ab-é字🙂"


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.train(TEXT, 400)


def test_a_word_of_any_length_is_learned_from_in_seconds():
    genome = "".join(random.Random(1).choices("ACGT", k=300_000))  # in one line; its time grew with the square of that
    began = time.monotonic()
    learned = BPETokenizer.train(genome, 600)
    assert time.monotonic() - began < 20 and learned.vocab_size == 600
    assert learned.decode(learned.encode(genome)) == genome


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


KINDS = ("byte", "char_bytes", "bpe", "chat", "cl100k", "o200k")


@pytest.fixture(scope="module")
def kinds(bpe):
    """Each that reads every text, with Hugging Face's own reading of what it saves."""
    merged = {piece: index for piece, index in bpe._ranks.items()} | {b" whole words": 395}  # which no merges make
    gaps = {END_OF_TEXT: 400, "<|endofprompt|>": 410}  # ids that are no token, as cl100k_base has them
    made = {
        "byte": BPETokenizer.of_bytes(),
        "char_bytes": CharBytesTokenizer(TEXT),
        "bpe": bpe,
        "chat": BPETokenizer.train([TEXT[:500], TEXT[500:]], 400, (END_OF_TEXT, *CHAT_TOKENS)),
        "cl100k": BPETokenizer(merged, gaps, CL100K_PATTERN),
        "o200k": BPETokenizer(merged, gaps, O200K_PATTERN),
    }
    return {
        name: (tokenizer, HuggingFaceTokenizer.from_str(json.dumps(tokenizer.hugging_face()[0])))
        for name, tokenizer in made.items()
    }


# Where rules of splitting differ: contractions, runs of digits, blanks and line ends, capitals, marks, other scripts.
AWKWARD = st.text(alphabet=st.sampled_from("to be,thTR'sLl1234 \n\r\t/.é\u0301ÉЖж字🙂\udcff<0x>"), max_size=60)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=40)
@given(text=AWKWARD | st.text())
def test_every_text_comes_back_and_hugging_face_has_the_same_ids(kinds, name, text):
    tokenizer, hugging_face = kinds[name]
    ids = tokenizer.encode(text)
    written = "".join("\ufffd" if "\ud800" <= sign <= "\udfff" else sign for sign in text)
    assert tokenizer.decode(ids) == written and (len(ids) == 0 or ids.max() < tokenizer.vocab_size)
    assert hugging_face.encode(written).ids == ids.tolist()
    assert hugging_face.decode(ids.tolist(), skip_special_tokens=False) == written


@pytest.mark.parametrize("name", KINDS)
def test_each_is_loaded_as_it_was_saved(kinds, name, tmp_path):
    tokenizer, _ = kinds[name]
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    same = ("name", "digest", "vocab_size", "end_of_text")
    assert [getattr(loaded, key) for key in same] == [getattr(tokenizer, key) for key in same]
    assert type(loaded) is type(tokenizer) and np.array_equal(loaded.encode(TEXT), tokenizer.encode(TEXT))
    assert tokenizer.end_of_text is not None and tokenizer.end_of_text not in tokenizer.encode(f"a{END_OF_TEXT}b")


def test_roles_of_a_chat_have_the_last_ids_and_no_text_has_them(kinds):
    chat, _ = kinds["chat"]
    roles = [chat.special[role] for role in CHAT_TOKENS]
    assert chat.vocab_size <= 400 and roles == list(range(chat.vocab_size - 4, chat.vocab_size))
    assert not set(roles) & set(chat.encode("".join(CHAT_TOKENS)).tolist())


def test_characters_that_an_alphabet_lacks_are_their_bytes():
    tokenizer = CharBytesTokenizer("ab")
    assert tokenizer.vocab_size == 2 + 256 + 1
    assert tokenizer.encode("aé🙂b").tolist() == [0, *(2 + byte for byte in "é🙂".encode()), 1]


def test_a_million_blanks_are_a_text_like_any_other():
    """tiktoken's expressions give up on them: "Max stack size exceeded for backtracking"."""
    text = "to" + " " * 1_040_000 + "be"
    assert BPETokenizer.of_bytes().encode(text).astype(np.uint8).tobytes() == text.encode()


def test_bytes_of_parts_join_to_the_text(bpe):
    ids = bpe.encode("naïve 🙂 text")
    assert b"".join(bpe.decode_bytes([index]) for index in ids).decode() == "naïve 🙂 text"


def test_training_is_repeatable_and_bounded(bpe):
    assert BPETokenizer.train(TEXT, 400).digest == bpe.digest
    assert bpe.vocab_size <= 400 and BPETokenizer.train("ab" * 10, 1000).vocab_size < 300
    assert len(bpe.encode(TEXT)) < len(TEXT) / 2
    with pytest.raises(UserError, match="bpe_vocab_size"):
        BPETokenizer.train(TEXT, 256)


def test_long_text_is_encoded_in_pieces(bpe, monkeypatch):
    monkeypatch.setattr(byte_pairs, "PIECE", 100)
    assert bpe.decode(bpe.encode(TEXT)) == TEXT


def test_characters_saved_and_loaded_are_the_same(tmp_path):
    tokenizer = CharTokenizer(TEXT)
    files = tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert all(path.is_file() for path in files)
    assert (loaded.name, loaded.digest, loaded.vocab_size) == ("char", tokenizer.digest, tokenizer.vocab_size)
    reference = HuggingFaceTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert reference.encode(TEXT).ids == tokenizer.encode(TEXT).tolist() == loaded.encode(TEXT).tolist()
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
