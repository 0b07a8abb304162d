"""Units read well, and no text whatever leaves the place in a document that it was put into."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import StrictUndefined, UndefinedError
from markdown_it import MarkdownIt

from flows.report import markdown as wording

PARAGRAPH = ["paragraph_open", "inline", "paragraph_close"]


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_is_one_block_and_ends_where_it_should(text):
    tokens = MarkdownIt("commonmark").parse(f"before\n\n{wording.block(text)}\n\nafter\n")
    assert [token.type for token in tokens] == [*PARAGRAPH, "fence", *PARAGRAPH]
    assert tokens[3].content.strip("\n") == wording._printable(text).strip("\n")


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_in_a_cell_stays_in_its_cell_and_shows_its_characters(text):
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    shown = " ".join(wording._printable(text).split())
    for written in (wording.safe(text), wording.code_cell(text)):
        tokens = parser.parse(f"| a | b |\n|---|---|\n| {written} | end |\n")
        cells = [token for token in tokens if token.type == "inline"]
        assert len(cells) == 4 and cells[3].content == "end"
        assert {child.type for child in cells[2].children} <= {"text", "text_special", "code_inline"}
    cells = parser.parse(f"| a | b |\n|---|---|\n| {wording.safe(text)} | end |\n")
    inline = [token for token in cells if token.type == "inline"][2]
    assert "".join(child.content for child in inline.children).strip() == shown.strip()


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_at_the_start_of_a_line_is_a_paragraph(text):
    tokens = MarkdownIt("commonmark", {"html": False}).enable("table").parse(f"{wording.safe(text)}\n")
    assert [token.type for token in tokens] in ([], PARAGRAPH)


def test_a_template_that_misspells_a_fact_is_noticed():
    with pytest.raises(UndefinedError):
        wording.safe(StrictUndefined(name="facts.rum"))


@pytest.mark.parametrize(
    "filter, value, words",
    [
        (wording.byte_size, 0, "0 B"),
        (wording.byte_size, 1536, "1.5 KiB"),
        (wording.byte_size, 3 * 2**40, "3,072.0 GiB"),
        (wording.duration, 0.0123, "12 ms"),
        (wording.duration, 8.42, "8.4 s"),
        (wording.duration, 59.97, "1 min 00 s"),
        (wording.duration, 200, "3 min 20 s"),
        (wording.duration, 3599.9, "1 h 00 min"),
        (wording.duration, 21900, "6 h 05 min"),
        (wording.number, 1115394, "1,115,394"),
        (wording.number, 0.00012345, "0.0001234"),
        (wording.number, float("inf"), "inf"),
        (wording.count, 803_000, "0.80 M"),
        (wording.count, 124e6, "124.0 M"),
        (wording.count, 1.24e9, "1.24 B"),
        (wording.count, 512, "512"),
        (wording.flops, 1.2e11, "120 GFLOP/s"),
        (wording.flops, 2.9e12, "2.9 TFLOP/s"),
        (wording.percent, 0.163, "16 %"),
        (wording.byte_size, None, "–"),
        (wording.duration, None, "–"),
        (wording.number, None, "–"),
        (wording.flops, None, "–"),
    ],
)
def test_units_read_well(filter, value, words):
    assert filter(value) == words
