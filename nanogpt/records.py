"""Records as JSON and back: a dataclass is written as plain values, and checked against its types when it is read."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


def to_json(record: object, sparse: bool = False) -> Any:
    """`record`, a dataclass or a pydantic model, as dictionaries, lists and plain values.

    `sparse` leaves out what has its default: a file stays as it was before its record had that field.
    """
    kind: Any = type(record)
    return _adapter(kind).dump_python(record, mode="json", exclude_defaults=sparse)


def from_json(kind: type[T], value: object) -> T:
    """`value` as `kind`; keys that it does not know are left out. Raises ValueError, in one line, for any other."""
    try:
        form: Any = kind
        record: T = _adapter(form).validate_python(value)
        return record
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or kind.__name__
        raise ValueError(f"{place}: {first['msg']}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
