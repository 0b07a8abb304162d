"""Cleaning and splitting: nothing lost, nothing twice, the same every time, nanoGPT's split to the character."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt import durable
from nanogpt.config import DataConfig
from nanogpt.data.preprocessing import clean, decode, prepare, read_split, split_offsets
from nanogpt.faults import UserError

pytestmark = pytest.mark.fast
LINES = "".join(f"Line {number}: to be, or not to be.\n" for number in range(200))


def written(folder, *texts):
    paths = []
    for number, text in enumerate(texts):
        paths.append(folder / f"document{number}.txt")
        paths[-1].write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return paths


def whole(folder):
    return "".join(read_split(folder, split) for split in ("train", "val", "test"))


def test_tiny_shakespeare_stays_byte_identical_and_splits_like_nanogpt(tmp_path, shared_data):
    source = shared_data / "tinyshakespeare.txt"
    statistics = prepare([source], tmp_path, DataConfig())
    assert whole(tmp_path).encode() == source.read_bytes()
    assert len(read_split(tmp_path, "train")) == int(1_115_394 * 0.9)
    assert statistics["characters"] == statistics["bytes"] == 1_115_394
    assert len(statistics["alphabet"]) == 65 and statistics["lines"] == 40_000
    assert statistics["most_frequent"][0] == [" ", 169_892]


def test_statistics_are_those_of_the_text(tmp_path):
    text = LINES + "Ünïcode ✓"
    statistics = prepare(written(tmp_path, text), tmp_path / "out", DataConfig())
    assert statistics == durable.read_json(tmp_path / "out" / "statistics.json")
    assert statistics["characters"] == len(text) and statistics["bytes"] == len(text.encode())
    assert statistics["alphabet"] == "".join(sorted(set(text)))
    assert dict(map(tuple, statistics["most_frequent"]))["o"] == text.count("o")
    assert sum(split["bytes"] for split in statistics["splits"].values()) == len(text.encode())


def test_duplicates_go_and_the_order_does_not_depend_on_names(tmp_path):
    one, other = LINES, LINES.upper()
    folders = []
    for name, texts in (("a", (one, other, one)), ("b", (other, one, other))):
        (tmp_path / name).mkdir()
        statistics = prepare(written(tmp_path / name, *texts), tmp_path / name / "out", DataConfig())
        assert statistics["duplicates_removed"] == 1
        folders.append(tmp_path / name / "out")
    assert whole(folders[0]) == whole(folders[1])


def test_every_document_is_there_once(tmp_path):
    texts = [f"{word} " * 200 for word in ("alpha", "beta", "gamma")]
    prepare(written(tmp_path, *texts), tmp_path / "out", DataConfig())
    assert sorted(whole(tmp_path / "out").split("\n\n")) == sorted(texts)


@given(st.text() | st.text(alphabet="\ufeff\0\r\n\x85e\u0301"))
def test_cleaning_is_idempotent_and_composed(text):
    once = clean(text)
    assert clean(once) == once
    assert unicodedata.is_normalized("NFC", once) and "\r" not in once and "\0" not in once


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("\n\t")))
def test_plain_text_is_left_alone(text):
    assert clean(text) == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_the_encodings_people_have(tmp_path, encoding):
    text = "Café – “naïve”\r\n" * 50
    decoded, _ = decode(text.encode(encoding), tmp_path)
    assert clean(decoded) == text.replace("\r\n", "\n")


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", bytes(range(1, 32)) * 9, b"fine\x81" * 40,
                                  "half a character".encode("utf-16")[:-1]])  # fmt: skip
def test_binary_is_refused_by_name(tmp_path, data):
    with pytest.raises(UserError, match=r"photo\.txt is not text"):
        decode(data, tmp_path / "photo.txt")


@given(
    st.integers(1000, 10**9), st.sampled_from([0.01, 0.05, 0.1, 0.3]), st.sampled_from([0.01, 0.05, 0.1, 0.3])
)  # fmt: skip
def test_splits_cover_the_text_without_gap_or_overlap(characters, val, test):
    offsets = split_offsets(characters, val, test)
    assert [offsets[name][0] for name in ("train", "val", "test")] == [0, offsets["train"][1], offsets["val"][1]]
    assert offsets["test"][1] == characters
    assert abs((offsets["val"][1] - offsets["val"][0]) - characters * val) <= 2


@pytest.mark.parametrize("text", ["", "\n \n", "short"])
def test_too_short_is_refused(tmp_path, text):
    with pytest.raises(UserError, match="at least 1,000"):
        prepare(written(tmp_path, text), tmp_path / "out", DataConfig())


def test_fractions_that_leave_nothing_are_refused():
    with pytest.raises(UserError, match="nothing to train on"):
        split_offsets(1000, 0.4999, 0.4999)
    with pytest.raises(UserError, match="val_fraction"):
        split_offsets(1000, 0.0005, 0.1)
