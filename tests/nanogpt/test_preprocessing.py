"""Cleaning and splitting: nothing lost, nothing twice, the same every time, nanoGPT's split to the character."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt import durable
from nanogpt.config import DataConfig
from nanogpt.corpus.preparation import prepare, remarks, split_offsets
from nanogpt.data.texts import read_split
from nanogpt.faults import UserError
from nanogpt.records import from_json
from nanogpt.results.text import Reading, TextStatistics
from nanogpt.sources.account import Account
from nanogpt.sources.cleaning import clean

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
    assert statistics.characters == statistics.bytes == 1_115_394
    assert len(statistics.alphabet) == 65 and statistics.lines == 40_000
    assert statistics.most_frequent[0] == (" ", 169_892)


def test_the_file_of_a_plain_text_has_no_word_of_how_it_was_read(tmp_path):
    statistics = prepare(written(tmp_path, LINES), tmp_path / "out", DataConfig())
    assert "readings" not in durable.read_json(tmp_path / "out" / "statistics.json") and remarks(statistics) == []


RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n" * 20


def test_what_was_detected_and_replaced_is_counted_and_said(tmp_path):
    texts = [LINES, RUSSIAN.encode("cp1251"), (RUSSIAN + "Ещё.\n").encode("cp1251"), "Café. ".encode() * 200 + b"\xff"]
    statistics = prepare(written(tmp_path, *texts), tmp_path / "out", DataConfig(near_duplicates="ignore"))
    assert statistics.encodings == {"utf-8": 2, "cp1251": 2}
    russian, french = statistics.readings
    assert russian.confidence is not None and 0.9 < russian.confidence <= 1
    assert (russian.documents, russian.example, russian.replaced) == (2, "document1.txt", 0)
    assert french == Reading("utf-8", 1, "document3.txt", None, 1)
    assert "Ещё" in whole(tmp_path / "out") and whole(tmp_path / "out").count("\ufffd") == 1
    first, second = remarks(statistics)
    assert first.startswith("document1.txt and 1 more: read as cp1251, which was detected (confidence")
    assert second == "document3.txt: read as utf-8; 1 damaged place is U+FFFD now"
    assert statistics == from_json(TextStatistics, durable.read_json(tmp_path / "out" / "statistics.json"))


@pytest.mark.parametrize("end", ["\f", "\v", "\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\u2028", "\u2029", "\r", "\r\n"])
def test_every_end_of_a_line_separates_words(end):
    assert clean(f"page one{end}page two") == "page one\npage two"


def test_statistics_are_those_of_the_text(tmp_path):
    text = LINES + "Ünïcode ✓"
    statistics = prepare(written(tmp_path, text), tmp_path / "out", DataConfig())
    assert statistics == from_json(TextStatistics, durable.read_json(tmp_path / "out" / "statistics.json"))
    assert statistics.characters == len(text) and statistics.bytes == len(text.encode())
    assert statistics.alphabet == "".join(sorted(set(text)))
    assert dict(statistics.most_frequent)["o"] == text.count("o")
    assert sum(split.bytes for split in statistics.splits.values()) == len(text.encode())


def test_duplicates_go_and_the_order_does_not_depend_on_names(tmp_path):
    one, other = LINES, LINES.replace("to be", "to see")
    folders = []
    for name, texts in (("a", (one, other, one)), ("b", (other, one, other))):
        (tmp_path / name).mkdir()
        statistics = prepare(written(tmp_path / name, *texts), tmp_path / name / "out", DataConfig())
        assert statistics.duplicates_removed == 1
        folders.append(tmp_path / name / "out")
    assert whole(folders[0]) == whole(folders[1])


def test_one_file_of_several_that_is_no_text_is_left_out_and_a_single_one_refused(tmp_path):
    good, binary = written(tmp_path, LINES, bytes(range(256)) * 4)
    account = Account()
    statistics = prepare([good, binary], tmp_path / "out", DataConfig(), account=account)
    assert {fate: found.documents for fate, found in statistics.fates.fates.items()} == {"kept": 1, "not_text": 1}
    assert any(line.startswith("1 document left out:") for line in remarks(statistics))
    assert whole(tmp_path / "out") == LINES
    assert any("document1.txt: is not text (binary bytes)" in line for line in account.remarks())
    with pytest.raises(UserError, match=r"document1\.txt is not text"):
        prepare([binary], tmp_path / "alone", DataConfig())


def test_what_became_of_the_documents_is_counted_and_said(tmp_path):
    near = LINES.replace("Line 7:", "Verse 7:", 1)
    mail = RUSSIAN + "Write to jane@example.org."
    paths = written(tmp_path, LINES, near, mail, "", LINES, "Too short.")
    config = DataConfig(min_characters=100, private_data="redact")
    statistics = prepare(paths, tmp_path / "out", config)
    assert statistics == from_json(TextStatistics, durable.read_json(tmp_path / "out" / "statistics.json"))
    counts = {fate: counted.documents for fate, counted in statistics.fates.fates.items()}
    assert counts == {"kept": 2, "empty": 1, "too_short": 1, "near_duplicate": 1, "duplicate": 1}
    assert (statistics.documents, statistics.duplicates_removed) == (6, 2)
    assert sorted(whole(tmp_path / "out").split("\n\n")) in (
        sorted([text, RUSSIAN + "Write to <email>."]) for text in (LINES, near)
    )
    said = remarks(statistics)
    assert "1 document left out: the same as another (document4.txt)" in said
    assert [line for line in said if line.startswith("private data found: email 1 time (such as ja**@*******.***); ")]
    together = prepare(paths, tmp_path / "out", DataConfig(near_duplicates="together"))
    assert together.fates.fates["kept"].documents == 4
    assert f"{LINES}\n\n{near}" in whole(tmp_path / "out") or f"{near}\n\n{LINES}" in whole(tmp_path / "out")


def test_every_document_is_there_once(tmp_path):
    texts = [f"{word} " * 200 for word in ("alpha", "beta", "gamma")]
    prepare(written(tmp_path, *texts), tmp_path / "out", DataConfig())
    assert sorted(whole(tmp_path / "out").split("\n\n")) == sorted(texts)


@given(st.text() | st.text(alphabet="\ufeff\0\r\n\x85e\u0301"))
def test_cleaning_is_idempotent_and_composed(text):
    once = clean(text)
    assert clean(once) == once
    assert unicodedata.is_normalized("NFC", once) and "\r" not in once and "\0" not in once


MARKS = "\u0301\u0316\u0344\u0345\u0f73\u0f71\uff9e\u3099\U0001e94a"  # of several classes; some become others


@given(
    st.lists(st.sampled_from(MARKS), min_size=60, max_size=400).map("".join),
    st.text("eカ\u0307ﬁ각", max_size=3), st.text("eカ\u0307ﬁ각", max_size=3), st.sampled_from(["NFC", "NFKC"]),
)  # fmt: skip
def test_many_marks_on_a_letter_are_in_the_order_of_unicode(marks, before, behind, form):
    text = before + marks + behind
    assert clean(text, form) == unicodedata.normalize(form, text)


def test_a_hundred_thousand_marks_on_a_letter_take_no_time():
    began = time.process_time()
    once = clean("a" + "\u0301\u0316" * 50_000)
    assert time.process_time() - began < 5  # unicodedata alone: 20 s, and four times as long for twice as many
    assert once == "\u00e1" + "\u0316" * 50_000 + "\u0301" * 49_999


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("\n\t")))
def test_plain_text_is_left_alone(text):
    assert clean(text) == text


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


@pytest.mark.parametrize("held_out", [0.13, 0.2, 0.4])
def test_near_duplicates_that_stay_are_in_one_split(tmp_path, held_out):
    families = [
        [f"{name}{copy} " + " ".join(f"{name}{word}" for word in range(300)) for copy in range(4)] for name in "abcde"
    ]
    config = DataConfig(near_duplicates="together", val_fraction=held_out, test_fraction=held_out)
    prepare(written(tmp_path, *(text for family in families for text in family)), tmp_path / "out", config)
    splits = [read_split(tmp_path / "out", split) for split in ("train", "val", "test")]
    assert [sum(f"{name}7 " in split for split in splits) for name in "abcde"] == [1] * 5 and all(splits)
