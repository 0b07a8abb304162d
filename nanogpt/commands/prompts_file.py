"""Prompts from a file: one a line, or JSON lines with a prompt and options of its own."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanogpt.commands.texts import Request
from nanogpt.commands.typed import all_of, rest_of_stdin
from nanogpt.faults import UserError
from nanogpt.inference.options import Options
from nanogpt.mistakes import explain

STDIN = "-"


class PromptLine(BaseModel):
    """A line of JSON: the fields of Options, each optional, and how many texts."""

    model_config = ConfigDict(extra="forbid", strict=True)
    prompt: str
    num_samples: int = Field(1, ge=1)
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    alternatives: int | None = None
    beams: int | None = None
    length_penalty: float | None = None
    pattern: str | None = None
    json_schema: dict[str, object] | None = None


def read(file: str, options: Options, copies: int) -> list[Request]:
    """The requests in `file`, or in stdin where it is STDIN; what a line does not say is as in `options`.

    Empty lines are left out. The lines are JSON where the first one begins with {. Raises UserError with the line.
    """
    text = rest_of_stdin() if file == STDIN else _text_of(file)
    name = "standard input" if file == STDIN else file
    lines = [(f"{name}, line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"{name}: holds no prompt")
    if lines[0][1].lstrip().startswith("{"):
        return [_from_json(place, line, options, copies) for place, line in lines]
    return [Request(line, options, copies, place) for place, line in lines]


def _text_of(file: str) -> str:
    with open(file, encoding="utf-8-sig") as opened:
        return all_of(opened, file)


def _from_json(place: str, line: str, options: Options, copies: int) -> Request:
    try:
        said = PromptLine.model_validate_json(line)
    except ValidationError as error:
        raise UserError(f"{place}: {': '.join(filter(None, explain(PromptLine, error)))}") from None
    changes = said.model_dump(exclude={"prompt", "num_samples"}, exclude_none=True)
    copies = said.num_samples if "num_samples" in said.model_fields_set else copies
    return Request(said.prompt, replace(options, **changes), copies, place)
