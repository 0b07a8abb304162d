"""No text whatever leaves the place in a document that it was put into."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import StrictUndefined, UndefinedError
from markdown_it import MarkdownIt

from flows.report import markdown
from nanogpt.markdown import printable

PARAGRAPH = ["paragraph_open", "inline", "paragraph_close"]


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_is_one_block_and_ends_where_it_should(text):
    tokens = MarkdownIt("commonmark").parse(f"before\n\n{markdown.block(text)}\n\nafter\n")
    assert [token.type for token in tokens] == [*PARAGRAPH, "fence", *PARAGRAPH]
    assert tokens[3].content.strip("\n") == printable(text).strip("\n")


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_in_a_cell_stays_in_its_cell_and_shows_its_characters(text):
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    shown = " ".join(printable(text).split())
    for written in (markdown.safe(text), markdown.code_cell(text)):
        tokens = parser.parse(f"| a | b |\n|---|---|\n| {written} | end |\n")
        cells = [token for token in tokens if token.type == "inline"]
        assert len(cells) == 4 and cells[3].content == "end"
        assert {child.type for child in cells[2].children} <= {"text", "text_special", "code_inline"}
    cells = parser.parse(f"| a | b |\n|---|---|\n| {markdown.safe(text)} | end |\n")
    inline = [token for token in cells if token.type == "inline"][2]
    assert "".join(child.content for child in inline.children).strip() == shown.strip()


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_at_the_start_of_a_line_is_a_paragraph(text):
    tokens = MarkdownIt("commonmark", {"html": False}).enable("table").parse(f"{markdown.safe(text)}\n")
    assert [token.type for token in tokens] in ([], PARAGRAPH)


def test_a_template_that_misspells_a_fact_is_noticed():
    with pytest.raises(UndefinedError):
        markdown.safe(StrictUndefined(name="facts.rum"))


@pytest.mark.parametrize(
    "actual, planned, words",
    [(107, 100, "+7 %"), (93, 100, "−7 %"), (100, 100, "0 %"), (99.8, 100, "0 %"), (None, 1, "–"), (1, 0, "–")],
)
def test_how_far_off_a_plan_was(actual, planned, words):
    assert markdown.against(actual, planned) == words


def test_a_list_of_texts_stays_a_list():
    tokens = MarkdownIt("commonmark").parse(str(markdown.bullets(["# one", "two\n\n- three"])))
    assert [token.type for token in tokens].count("list_item_open") == 2


def test_spaces_and_line_ends_of_a_token_can_be_seen():
    assert markdown.visible(" the\n") == "`␣the⏎`"
