"""Every setting of a configuration, as a part of --help: key, type, default, what it does."""

from __future__ import annotations

import types
from collections.abc import Iterator
from functools import partial
from textwrap import wrap as wrap_words
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from nanogpt.config import Config

HEADING = "settings, in CONFIG or by --set KEY=VALUE (in brackets: the default)"
COLUMN = 46  # where descriptions begin, on a terminal that is wide enough
WIDE, NARROWEST = 100, 60
wrap = partial(wrap_words, break_on_hyphens=False)


def settings_help(width: int) -> str:
    """All settings by section, wrapped at `width` columns."""
    width = max(NARROWEST, width)
    lines = wrap(f"{HEADING}:", width)
    for section, title, fields in sections(Config):
        lines += ["", *wrap(f"  {title}", width, subsequent_indent="  ")]
        for name, field in fields.items():
            key = f"    {section}{name} {kind_of(field.annotation)} ({as_yaml(field.get_default())})"
            description = field.description or ""
            if width < WIDE:
                lines += wrap(f"{key}  {description}", width, subsequent_indent=" " * 8)
            else:
                indent = f"\n{' ' * COLUMN}"
                fitted = f"{key:<{COLUMN}}" if len(key) < COLUMN else f"{key}{indent}"
                lines.append(f"{fitted}{indent.join(wrap(description, width - COLUMN))}")
    return "\n".join(lines) + "\n"


def sections(config: Any) -> Iterator[tuple[str, str, dict[str, FieldInfo]]]:
    """("training.", what the section is, its fields) of each section; last, the settings of the whole model."""
    whole = {}
    for name, field in config.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            about = " ".join((field.annotation.__doc__ or "").split())  # python -OO keeps no docstrings
            yield f"{name}.", f"{name}: {about}", field.annotation.model_fields
        else:
            whole[name] = field
    yield "", "of the model as a whole", whole


def kind_of(annotation: Any) -> str:
    """What may be written: INT, FLOAT, TEXT, the words that are allowed, or several of these."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(arguments[0])
    if origin is Literal:
        return "|".join(str(word) for word in arguments)
    if origin in (Union, types.UnionType):
        return "|".join(kind_of(argument) for argument in arguments)
    if hasattr(annotation, "model_fields"):
        parts = (f"{name}: {kind_of(field.annotation)}" for name, field in annotation.model_fields.items())
        return f"{{{', '.join(parts)}}}"
    if origin is list:
        return f"[{kind_of(arguments[0])}, ...]"
    return {bool: "true|false", int: "INT", float: "FLOAT", str: "TEXT", type(None): "null"}[annotation]


def as_yaml(value: Any) -> str:
    """A default as one would write it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(as_yaml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
