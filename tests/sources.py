"""What the source of this checkout imports, read without running it: module by module, and definition by definition.

Imports inside functions and under TYPE_CHECKING count as all others: they hide a circle, they do not undo it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGES = ("flows", "nanogpt")
Imports = ast.Import | ast.ImportFrom
Functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
WORK = re.compile(r"([a-z_]\w*(?:\.\w+)+):(\w+)")  # "nanogpt.device:prove", as a worker takes it


class Module:
    """One source file."""

    def __init__(self, name: str, path: Path):
        self.name, self.path = name, path
        self.tree = ast.parse(path.read_text(encoding="utf-8"))

    @property
    def file(self) -> str:
        return self.path.relative_to(CHECKOUT).as_posix()

    @property
    def first_line(self) -> str:
        """Of its docstring."""
        return (ast.get_docstring(self.tree) or "").split("\n")[0]

    @cached_property
    def bindings(self) -> dict[str, list[ast.stmt]]:
        """What each name at the top of the module is made by."""
        found: dict[str, list[ast.stmt]] = {}
        for statement in _statements(self.tree.body):
            for name in _names_bound_by(statement):
                found.setdefault(name, []).append(statement)
        return found

    @cached_property
    def effects(self) -> list[ast.stmt]:
        """Statements at the top that bind no name and are no docstring: they run whenever the module is imported."""
        return [
            statement
            for statement in _statements(self.tree.body)
            if not list(_names_bound_by(statement))
            and not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        ]


def modules(folders: Iterable[str] = PACKAGES) -> dict[str, Module]:
    """Every module below these folders of the checkout, by its dotted name."""
    found = {}
    for folder in folders:
        for path in sorted((CHECKOUT / folder).rglob("*.py")):
            parts = path.relative_to(CHECKOUT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = Module(name, path)
    return found


def imports(module: Module, known: dict[str, Module]) -> set[str]:
    """The modules among `known` that a module imports."""
    nodes = (node for node in ast.walk(module.tree) if isinstance(node, Imports))
    targets = {target.module for node in nodes for target in _targets(node, known).values()}
    return targets - {module.name}


def type_checking_blocks(module: Module) -> list[ast.If]:
    blocks = (node for node in ast.walk(module.tree) if isinstance(node, ast.If))
    return [block for block in blocks if "TYPE_CHECKING" in ast.unparse(block.test)]


@dataclass(frozen=True)
class Target:
    """What an import gives: a module, or a name in one."""

    module: str
    name: str | None = None


def _targets(node: Imports, known: dict[str, Module]) -> dict[str, Target]:
    """{name that is bound: what it stands for}, of the imports from `known`."""
    found = {}
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            whole = f"{node.module}.{alias.name}"
            target = Target(whole) if whole in known else Target(node.module or "", alias.name)
        else:
            target = Target(alias.name)
        if target.module in known:
            found[alias.asname or alias.name] = target
    return found


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of a module that run when it is imported; not what runs only as a program."""
    for statement in body:
        if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
            continue
        inner = [getattr(statement, block, []) for block in ("body", "orelse", "finalbody")]
        if isinstance(statement, ast.If | ast.Try | ast.With):
            for block in inner:
                yield from _statements(block)
        else:
            yield statement


def _names_bound_by(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, Imports):
        yield from (alias.asname or alias.name.split(".")[0] for alias in statement.names)
    else:
        yield from _stored(statement)


def _stored(node: ast.AST) -> Iterator[str]:
    """Names that are assigned in a node, its inner functions left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        if not isinstance(child, Functions):
            yield from _stored(child)


@dataclass
class Reach:
    """What a piece of work comes to: followed from name to name, into every module but those where `stops` is true.

    A string "module:function" or the name of a module is followed as a call of it, a template's name as its file.
    """

    known: dict[str, Module]
    stops: Callable[[str], bool] = lambda name: False
    files: set[str] = field(default_factory=set)
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def add(self, module: str, name: str | None = None) -> Reach:
        """Follow a name of a module, or all that it defines."""
        if (module, name or "*") in self._seen:
            return self
        self._seen.add((module, name or "*"))
        source = self.known[module]
        if (module, "") not in self._seen:
            self._seen.add((module, ""))
            self.files.add(source.file)
            if not self.stops(module):
                for statement in source.effects:
                    self._follow(statement, source, {}, set())
        if self.stops(module):
            return self
        for bound in [name] if name else list(source.bindings):
            for statement in source.bindings.get(bound, []):
                if isinstance(statement, Imports):
                    self._go(_targets(statement, self.known).get(bound))
                else:
                    self._follow(statement, source, {}, set())
        return self

    def _go(self, target: Target | None) -> None:
        if target is not None:
            self.add(target.module, target.name)

    def _follow(self, node: ast.AST, source: Module, local: dict[str, Target], assigned: set[str]) -> None:
        """The names that a node uses; `local` are the imports of the functions around it."""
        if isinstance(node, Functions):
            arguments = {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
            inner = [child for child in ast.walk(node) if isinstance(child, Imports)]
            local = local | {name: target for child in inner for name, target in _targets(child, self.known).items()}
            assigned = assigned | arguments | set(_stored(node))
        if isinstance(node, ast.Attribute) and (target := self._attribute(node, source, local, assigned)):
            return self._go(target)
        if isinstance(node, ast.Name):
            if target := self._meaning(node.id, source, local, assigned):
                self._go(target)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            self._follow_text(node.value)
        for child in ast.iter_child_nodes(node):
            self._follow(child, source, local, assigned)
        return None

    def _meaning(self, name: str, source: Module, local: dict[str, Target], assigned: set[str]) -> Target | None:
        if name in local:
            return local[name]
        return Target(source.name, name) if name in source.bindings and name not in assigned else None

    def _attribute(
        self, node: ast.Attribute, source: Module, local: dict[str, Target], assigned: set[str]
    ) -> Target | None:
        """`module.name`: what it stands for; None for every other attribute."""
        if not isinstance(node.value, ast.Name):
            return None
        found = self._meaning(node.value.id, source, local, assigned)
        if found is not None and found.name is not None:  # bound in this module: perhaps by an import
            made_by = source.bindings.get(found.name, []) if found.module == source.name else []
            of_imports = [s for s in made_by if isinstance(s, Imports)]
            found = _targets(of_imports[0], self.known).get(found.name) if of_imports else None
        return Target(found.module, node.attr) if found is not None and found.name is None else None

    def _follow_text(self, text: str) -> None:
        if (work := WORK.fullmatch(text)) and work[1] in self.known:
            self.add(work[1], work[2])
        elif "." in text and text in self.known:
            self.add(text)
        elif text.endswith((".j2", ".js", ".css")) and (CHECKOUT / "templates" / text).is_file():
            self._add_template(text)

    def _add_template(self, name: str) -> None:
        self.files.add(f"templates/{name}")
        for other in re.findall(r'"([\w.]+\.(?:j2|css))"', (CHECKOUT / "templates" / name).read_text(encoding="utf-8")):
            if f"templates/{other}" not in self.files:
                self._add_template(other)
