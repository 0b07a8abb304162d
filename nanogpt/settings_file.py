"""YAML as settings are written in it: the core schema of YAML 1.2, each key once, no references, at most 64 KiB.

YAML 1.1 has surprises. This is what becomes of them, in files and on command lines alike:
    010            8 there; refused
    1:30           90 there; text, which no number takes
    yes no on off  true and false there; text, which a setting of true or false takes and no other
    2026-01-31     a date there; text
    1_000          1000, as there and in Python
    0x1F 0b11      31 and 3 there; text, which no number takes
    1e4            text there; a number
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from nanogpt import durable
from nanogpt.faults import UserError, suggestion

LARGEST = 1 << 16  # bytes: the largest that is shipped has 2 KB
TAG = "tag:yaml.org,2002:"


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that means different things to different readers."""

    def __init__(self, problem: str, mark: yaml.Mark):
        super().__init__(None, None, problem, mark)


class _Loader(yaml.SafeLoader):
    """PyYAML's, without the implicit types and merge keys of YAML 1.1, and without aliases: a few of them make
    gigabytes."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own declaration is no ClassVar)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            raise _Refused("references such as *name are not read; write the value again", mark)
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """`<<` is a key as any other."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    raise _Refused(f'the key "{key.value}" is in line {lines[key.value]} already', key.start_mark)
                lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the text that _Loader would read as something else."""

    yaml_implicit_resolvers = {}  # noqa: RUF012


def _refuse_leading_zero(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> None:
    plain = node.value.lstrip("+-0_") or "0"
    raise _Refused(
        f"found {node.value}, octal to some readers; write {plain}, or '{node.value}' for text", node.start_mark
    )


_TYPES = (  # in the order in which they are tried; the characters that each may begin with
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("leading-zero", r"[-+]?0[0-9_]+", "-+0"),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
)
for _name, _pattern, _first in _TYPES:
    for _reader in (_Loader, _Dumper):
        _reader.add_implicit_resolver(
            f"{TAG}{_name}", re.compile(rf"(?:{_pattern})\Z"), ["" if first == "\0" else first for first in _first]
        )
_Loader.add_constructor(f"{TAG}leading-zero", _refuse_leading_zero)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError naming the file and the line."""
    try:
        with durable.open_plain(path) as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        shipped = Path("configs", f"{path}.yaml")
        near = suggestion(str(shipped) if shipped.is_file() else "")
        raise UserError(f"{path}: cannot be read ({error.strerror}){near}") from error
    if len(content) > LARGEST:
        raise UserError(f"{path}: has more than {LARGEST:,} bytes, which no file of settings needs")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not a text file in UTF-8") from error
    values = parse(text, str(path), is_file=True)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected sections such as 'model:', found {type(values).__name__}")
    return values


def parse(text: str, where: str, is_file: bool = False) -> Any:
    """The value that `text` is in YAML. Raises UserError beginning with `where` and, of a file, the line."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise UserError(f"{where}: is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # the second: a number of thousands of digits
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        words = " ".join(str(problem).split())
        line = f"line {mark.line + 1}" if mark and is_file else ""
        if isinstance(error, _Refused):
            raise UserError(f"{where}: {line}{': ' if line else ''}{words}") from None
        raise UserError(f"{where}: {line or ('it' if is_file else 'the value')} is not valid YAML: {words}") from error


def as_yaml(values: dict[str, Any]) -> str:
    """YAML that `parse` reads back equal, in the order of `values`."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)
