"""What pydantic found wrong with settings, in one line: what was found, what is allowed, the nearest right name."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Iterator, Sequence

from pydantic import BaseModel, ValidationError

from nanogpt.faults import closest, nearest, suggestion
from nanogpt.spelling import redacted

UNKNOWN_KEY = ("extra_forbidden", "invalid_key")  # the second: YAML may have keys that are not text
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


def found(value: object) -> str:
    """`value` as a message shows it: short, however large or deep it is, and without passwords."""
    return str(value).lower() if isinstance(value, bool) else redacted(_SHORT.repr(value))


def explain(kind: type[BaseModel], error: ValidationError, typed: Collection[str] = ()) -> tuple[str, str]:
    """The key of the first mistake ("" for the whole) and what is wrong with it; an unknown key comes first.

    `typed`: keys of the command line, where the right one is written in full.
    """
    errors = error.errors()
    first = next((e for e in errors if e["type"] in UNKNOWN_KEY), errors[0])
    if first["type"] == "json_invalid":
        return "", f"is not JSON: {first['ctx']['error']}"
    location = _location(kind, first["loc"])
    key = ".".join(location)
    if first["type"] in UNKNOWN_KEY:
        return key, f"unknown key{nearest_key(key, list(dotted_keys(kind)), in_full=key in typed)}"
    if first["type"] == "value_error":
        return key, str(first["ctx"]["error"])
    shown = "a value that is not shown" if _is_private(kind, location) else found(first["input"])
    if first["type"] == "model_type":
        section = ", ".join(_keys(kind, location)[:3])
        return key, f"found {shown}, should be a section with {section} ..."
    # A setting of several types has a mistake for each of them.
    members = [member for member in errors if _location(kind, member["loc"]) == location]
    allowed = ", or ".join(dict.fromkeys(_allowed(member["type"], member["msg"]) for member in members))
    words = [word for member in members for word in re.findall("'([^']+)'", member.get("ctx", {}).get("expected", ""))]
    near = nearest(first["input"], words) if isinstance(first["input"], str) else ""
    return key, f"found {shown}, should {allowed}{near}"


def _is_private(kind: type[BaseModel] | None, location: Sequence[str]) -> bool:
    """Whether the setting at `location` may hold a secret: its field is declared with repr=False."""
    field = None
    for part in location:
        if kind is None or part not in kind.model_fields:  # a place within a value
            break
        field = kind.model_fields[part]
        kind = (
            field.annotation if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) else None
        )
    return field is not None and not field.repr


def _allowed(problem: str, message: str) -> str:
    """What is allowed, after "should", from pydantic's name of the problem and its message."""
    if problem.startswith("bool"):
        return "be true or false"
    if problem in ("int_parsing", "int_type", "int_from_float"):
        return "be an integer"
    if problem in ("float_parsing", "float_type"):
        return "be a number"
    if problem == "int_parsing_size":
        return "be a smaller integer"
    if problem == "tuple_type":
        return "be a list such as [first, second]"
    return re.sub(" after validation, not [0-9]+$", "", re.sub("^[A-Z][a-z]+ should ", "", message))


def _location(kind: type[BaseModel] | None, location: tuple[int | str, ...]) -> list[str]:
    """The keys and indices in pydantic's `location`, without its names for the members of a union and the like."""
    keys = []
    for part in location:
        if kind is not None:
            field = kind.model_fields.get(str(part))
            inner = field.annotation if field else None
            kind = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
            keys.append(str(part))
        elif isinstance(part, int):
            keys.append(str(part))
    return keys


def _keys(kind: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        inner = kind.model_fields[part].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        kind = inner
    return list(kind.model_fields)


def nearest_key(dotted: str, known: Sequence[str], in_full: bool) -> str:
    """' (did you mean "training.learning_rate"?)' for what a person wrote as `learning_rate`, `training.lr` or
    `training.learning_rat`, or an empty string. In its own section, and not `in_full`, "learning_rate" is enough."""
    known = [key for key in known if key != dotted]  # else it is unknown here for another reason
    section, _, word = dotted.rpartition(".")
    here = {_last(key): key for key in known if key.rpartition(".")[0] == section}
    same = [key for key in known if _last(key) == word]
    initials = [key for key in [*here.values(), *known] if "".join(part[:1] for part in _last(key).split("_")) == word]
    near = here.get(closest(word, here)) or closest(dotted, known)
    key = next(iter(same or initials), near)
    return suggestion(_last(key) if key in here.values() and not in_full else key)


def _last(dotted: str) -> str:
    return dotted.rpartition(".")[2]


def dotted_keys(kind: type[BaseModel]) -> Iterator[str]:
    """`training.learning_rate` and so on: all that can be set."""
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from (f"{name}.{key}" for key in dotted_keys(inner))
        else:
            yield name
