"""A talk is written as a play: which text the model continues, and where its words end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.inference.conversation import Message, Play
from nanogpt.inference.text_stream import TextStream
from nanogpt.tokenizers.characters import CharTokenizer

pytestmark = pytest.mark.fast
TALK = [
    Message("system", "Verona, at night."),
    Message("user", "What say you?\n"),
    Message("assistant", "It is late,\nmy lord."),
    Message("user", "How late?"),
]
messages = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text("aB:\n ", max_size=12))


def test_a_talk_is_the_training_text_s_own_form():
    assert Play().prompt(TALK) == (
        "Verona, at night.\n\nROMEO:\nWhat say you?\n\nJULIET:\nIt is late,\nmy lord.\n\nROMEO:\nHow late?\n\nJULIET:\n"
    )
    assert Play("A", "B").prompt([]) == "B:\n"


@given(st.lists(messages, max_size=5))
def test_every_part_is_one_paragraph_and_the_assistant_speaks_next(talk):
    prompt = Play("U", "V").prompt(talk)
    assert prompt.endswith("V:\n")
    spoken = [message for message in talk if message.role != "system"]
    paragraphs = [part for part in prompt.split("\n\n") if part.startswith(("U:", "V:"))]
    assert len(paragraphs) == len(spoken) + 1


@given(st.lists(messages, max_size=5), st.lists(messages, max_size=3))
def test_a_longer_talk_begins_as_the_shorter_one(talk, more):
    play = Play("U", "V")
    so_far = play.prompt(talk).removesuffix("V:\n")
    assert play.prompt([*talk, *more]).startswith(so_far)


@pytest.mark.parametrize("written", ["So late.\n\nROMEO:\nHow", "So late.\nROMEO:\nHow"])
def test_the_words_end_where_the_other_part_begins(written):
    stream, shown = TextStream(CharTokenizer(written), Play().stops), ""
    for character in written:
        shown += stream.add(character)
        if stream.ended:
            break
    assert stream.ended and shown == "So late."
