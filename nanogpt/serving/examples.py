"""GET /nanogpt/examples: beginnings of texts that a model's alphabet can read, for a page without a word on it yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel

from nanogpt.faults import CorruptFileError
from nanogpt.inference import prompts
from nanogpt.serving.attention import folder_of
from nanogpt.tokenizers import loading, tokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer

MOST = 4  # of a kind
WORDS = (
    "What news, my lord?",
    "Speak, what is thy name?",
    "Tell me of the king.",
    "Art thou happy?",
    "Was gibt es Neues?",
    "Quelles nouvelles ?",
    "Что нового?",
)
BEGINNINGS = (
    "KING RICHARD:\n",
    "To be, or not to be",
    "Once upon a time",
    "The meaning of life is",
    "Es war einmal",
    "Il était une fois",
    "Жили-были",
    "def ",
    "1, 2, 3, ",
)

router = APIRouter()


class Examples(BaseModel):
    """What a person could say in a chat, and beginnings of texts."""

    chat: list[str]
    text: list[str]


@router.get("/nanogpt/examples")
def examples(model: Annotated[str, Query(max_length=300)], request: Request) -> Examples:
    """At most MOST of each kind; fewer where the model's alphabet is of another script."""
    try:
        tokenizer = tokenizer_near(folder_of(model, request))
    except CorruptFileError as damage:
        raise HTTPException(500, str(damage)) from None
    return Examples(chat=readable(WORDS, tokenizer), text=readable(BEGINNINGS, tokenizer))


def tokenizer_near(folder: Path) -> Tokenizer | None:
    """That of an export, or of the training that a checkpoint lies in; None where there is none."""
    places = (folder, folder.parent, folder.parent.parent)
    place = next((place for place in places if (place / tokenizer.FILE).is_file()), None)
    return loading.load_tokenizer(place) if place else None


def readable(candidates: Sequence[str], tokenizer: Tokenizer | None) -> list[str]:
    """The first ones without a character that is outside the vocabulary."""
    return [text for text in candidates if tokenizer and prompts.known(text, tokenizer)][:MOST]
