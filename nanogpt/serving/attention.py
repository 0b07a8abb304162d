"""POST /nanogpt/attention: what the last token of a text looks at, by layer and head.

The application sets `app.state.model_folder`, which gives the folder of a model by its name in /v1/models and raises
KeyError for another name. PyTorch computes the answer, whichever backend decodes, on a copy of the weights of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field

from nanogpt.faults import CorruptFileError, UserError

LONGEST_TEXT = 100_000  # characters; only the last block_size tokens count
LONGEST_WAIT = 20.0  # seconds for the question before: two models side by side are asked at the same time
DIGITS = 4  # behind the point: 12 layers of 12 heads over 1,024 tokens are 1 MB of JSON

router = APIRouter()
_one_at_a_time = threading.Lock()


class AttentionQuestion(BaseModel):
    """A text whose last token is looked at."""

    model: Annotated[str, Field(max_length=300)]
    text: Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]


class AttentionAnswer(BaseModel):
    """`tokens`: the text's last ones, block_size at most. `layers`: layers × heads × tokens, each head's sum to 1."""

    tokens: list[str]
    layers: list[list[list[float]]]


@router.post("/nanogpt/attention")
def attention(question: AttentionQuestion, request: Request) -> AttentionAnswer:
    """The attention of the text's last token, before it says what comes next."""
    folder = folder_of(question.model, request)
    if not _one_at_a_time.acquire(timeout=LONGEST_WAIT):
        raise HTTPException(429, "the attention of other texts is being computed; try again", {"Retry-After": "5"})
    try:
        # Loading torch takes 1.5 s and 200 MB: a server that decodes without it spends them on the first question only.
        from nanogpt.study.last_attention import attention_of_text

        tokens, weights = attention_of_text(folder, question.text)
    except UserError as mistake:
        raise HTTPException(400, str(mistake)) from None
    except (CorruptFileError, OSError) as damage:
        raise HTTPException(500, str(damage)) from None
    finally:
        _one_at_a_time.release()
    rounded = [[[round(weight, DIGITS) for weight in head] for head in layer] for layer in weights.tolist()]
    return AttentionAnswer(tokens=tokens, layers=rounded)


def folder_of(model: str, request: Request) -> Path:
    """Where the model lies. Raises HTTPException 404."""
    folders: Callable[[str], Path] = request.app.state.model_folder
    try:
        return folders(model)
    except KeyError:
        raise HTTPException(404, f"model: there is no {model!r}; GET /v1/models lists those that are there") from None
