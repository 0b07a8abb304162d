"""The house stands as docs/architecture.md draws it: each room imports only rooms below it that the table allows.

`python -m tests.test_house --write` draws the table and the maps of that document anew.
"""

import re
import subprocess
import sys
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.sources import CHECKOUT, Module, imports, modules, type_checking_blocks

pytestmark = pytest.mark.fast

DOCUMENT = CHECKOUT / "docs/architecture.md"
KNOWN = modules()


@dataclass(frozen=True)
class Room:
    """`modules`: what stands in it, each with everything below that has no room of its own; the folder by default."""

    name: str
    may_import: str
    modules: str = ""
    idea: str = ""  # of a room that is no folder; a folder says its own

    @property
    def prefixes(self) -> list[str]:
        return self.modules.split() or [self.name]

    @property
    def first_line(self) -> str:
        return self.idea or KNOWN[self.name].first_line


BASICS = "nanogpt.records nanogpt.basics"
DATA = "nanogpt.data nanogpt.tokenizers nanogpt.sources"
HOUSE = [  # from the top down
    Room(
        "flows.full_run",
        "flows.bootstrap flows.cli flows.phases flows.runner flows.context flows.ledger nanogpt.study nanogpt.basics",
        "flows.full_run flows.ablations",
        idea="The commands, each on one screen: the eight phases in order, and the ablations.",
    ),
    Room(
        "flows.cli",
        "flows.report flows.runner flows.planning flows.machine flows.context flows.ledger flows.display "
        f"nanogpt.measure nanogpt.model {DATA} nanogpt.config nanogpt.device {BASICS}",
    ),
    Room(
        "flows.phases",
        "flows.report flows.runner flows.supervision flows.planning flows.machine flows.context flows.ledger "
        "nanogpt.serving nanogpt.study nanogpt.compression nanogpt.export nanogpt.evaluation nanogpt.training "
        f"nanogpt.training.record nanogpt.corpus {DATA} nanogpt.kernels nanogpt.native nanogpt.config nanogpt.device "
        f"{BASICS}",
    ),
    Room(
        "flows.report",
        "flows.runner flows.supervision flows.planning flows.machine flows.context flows.ledger nanogpt.export "
        f"nanogpt.evaluation nanogpt.training.record {DATA} nanogpt.config {BASICS}",
    ),
    Room(
        "flows.runner",
        "flows.supervision flows.planning flows.machine flows.context flows.ledger flows.display nanogpt.device "
        f"nanogpt.process {BASICS}",
    ),
    Room(
        "flows.supervision",
        "flows.planning flows.machine flows.context flows.ledger flows.display nanogpt.training.record "
        f"nanogpt.config nanogpt.device nanogpt.process {BASICS}",
    ),
    Room(
        "flows.planning",
        f"flows.machine flows.context flows.ledger nanogpt.measure {DATA} nanogpt.config nanogpt.device "
        f"nanogpt.process {BASICS}",
    ),
    Room("flows.machine", f"flows.context flows.ledger flows.display nanogpt.device nanogpt.process {BASICS}"),
    Room("flows.context", f"flows.ledger flows.display nanogpt.config {BASICS}"),
    Room("flows.ledger", f"{BASICS}"),
    Room("flows.display", f"{BASICS}", "flows.display flows.prefect_server"),
    Room(
        "flows.bootstrap", "", "flows flows.bootstrap",
        idea="Finds or makes the environment before anything else is imported. Standard library only, Python 3.6.",
    ),
    Room(
        "nanogpt.commands",
        "nanogpt.corpus nanogpt.watch nanogpt.serving nanogpt.measure nanogpt.study nanogpt.compression nanogpt.export "
        "nanogpt.evaluation nanogpt.training nanogpt.training.record nanogpt.inference nanogpt.decoders "
        f"nanogpt.weights {DATA} nanogpt.config nanogpt.device {BASICS}",
        "nanogpt.cli nanogpt.commands",
    ),
    Room("nanogpt.watch", f"nanogpt.serving nanogpt.training.record {BASICS}"),
    Room(
        "nanogpt.serving",
        f"nanogpt.study nanogpt.inference nanogpt.decoders nanogpt.weights {DATA} nanogpt.config nanogpt.device "
        f"{BASICS}",
    ),
    Room(
        "nanogpt.measure",
        "nanogpt.training nanogpt.training.record nanogpt.training.update nanogpt.inference nanogpt.decoders "
        f"nanogpt.weights nanogpt.model {DATA} nanogpt.kernels nanogpt.native nanogpt.config nanogpt.device "
        f"nanogpt.process {BASICS}",
    ),
    Room(
        "nanogpt.study",
        "nanogpt.evaluation nanogpt.training nanogpt.training.record nanogpt.training.update nanogpt.inference "
        f"nanogpt.decoders nanogpt.weights nanogpt.model {DATA} nanogpt.config nanogpt.device {BASICS}",
    ),
    Room(
        "nanogpt.compression",
        "nanogpt.export nanogpt.evaluation nanogpt.training nanogpt.training.record nanogpt.training.update "
        f"nanogpt.inference nanogpt.decoders nanogpt.weights nanogpt.model {DATA} nanogpt.config nanogpt.device "
        f"{BASICS}",
    ),
    Room(
        "nanogpt.export",
        f"nanogpt.evaluation nanogpt.training.record nanogpt.decoders nanogpt.weights nanogpt.model {DATA} "
        f"nanogpt.config {BASICS}",
    ),
    Room(
        "nanogpt.evaluation",
        f"nanogpt.training.record nanogpt.inference nanogpt.decoders nanogpt.weights nanogpt.model {DATA} "
        f"nanogpt.config nanogpt.device {BASICS}",
    ),
    Room(
        "nanogpt.training",
        "nanogpt.training.record nanogpt.training.update nanogpt.inference nanogpt.decoders nanogpt.weights "
        f"nanogpt.model nanogpt.kernels nanogpt.native {DATA} nanogpt.config nanogpt.device {BASICS}",
    ),
    Room(
        "nanogpt.training.record",
        f"nanogpt.weights {DATA} nanogpt.config {BASICS}",
        "nanogpt.training.record nanogpt.plots",
    ),
    Room("nanogpt.training.update", f"nanogpt.model nanogpt.config {BASICS}"),
    Room(
        "nanogpt.inference",
        f"nanogpt.decoders nanogpt.weights nanogpt.model {DATA} nanogpt.config nanogpt.device {BASICS}",
    ),
    Room(
        "nanogpt.decoders",
        f"nanogpt.weights nanogpt.model nanogpt.native {DATA} nanogpt.config nanogpt.device {BASICS}",
    ),
    Room("nanogpt.weights", f"nanogpt.model {DATA} nanogpt.config nanogpt.device {BASICS}"),
    Room("nanogpt.model", f"nanogpt.kernels nanogpt.config nanogpt.device {BASICS}"),
    Room("nanogpt.kernels", f"nanogpt.native nanogpt.config nanogpt.device {BASICS}"),
    Room("nanogpt.native", f"nanogpt.device {BASICS}"),
    Room(
        "nanogpt.corpus",
        f"{DATA} nanogpt.config nanogpt.device nanogpt.process {BASICS}",
    ),
    Room("nanogpt.data", f"nanogpt.tokenizers nanogpt.config {BASICS}"),
    Room("nanogpt.tokenizers", f"nanogpt.sources nanogpt.config {BASICS}"),
    Room("nanogpt.sources", f"nanogpt.config {BASICS}"),
    Room(
        "nanogpt.config", BASICS, "nanogpt.config nanogpt.settings_file nanogpt.mistakes nanogpt.fit",
        idea="Every setting, read from YAML and validated, and how a training is made to fit into memory.",
    ),
    Room(
        "nanogpt.device", BASICS, "nanogpt.device nanogpt.machine nanogpt.allocator nanogpt.energy_meters",
        idea="What computes, and the machine around it: chosen, described, measured.",
    ),
    Room("nanogpt.process", BASICS),
    Room(
        "nanogpt.records", "nanogpt.basics", "nanogpt.records nanogpt.results",
        idea="What crosses a wall: results as records, without torch, and records as JSON.",
    ),
    Room(
        "nanogpt.basics", "",
        "nanogpt nanogpt.control_groups nanogpt.durable nanogpt.faults nanogpt.interrupts nanogpt.living "
        "nanogpt.markdown nanogpt.printable nanogpt.spelling nanogpt.standard_streams nanogpt.units",
        idea="Files that are whole or absent, the names of faults, figures as people read them.",
    ),
]  # fmt: skip
ROOMS = {room.name: room for room in HOUSE}
PLACES = {name: place for place, name in enumerate(ROOMS)}


def room_of(module: str) -> str:
    """The room whose prefix is the longest of those that fit; of a whole package, only the package itself."""
    fitting = {
        prefix: room.name for room in HOUSE for prefix in room.prefixes
        if module == prefix or (module.startswith(f"{prefix}.") and "." in prefix)
    }  # fmt: skip
    assert fitting, f"{module} stands in no room of tests/test_house.py"
    return fitting[max(fitting, key=len)]


def crossings() -> dict[tuple[str, str], list[str]]:
    """{(room, room): the imports from one into the other}."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, module in KNOWN.items():
        for imported in imports(module, KNOWN):
            rooms = room_of(name), room_of(imported)
            if rooms[0] != rooms[1]:
                found.setdefault(rooms, []).append(f"{name} imports {imported}")
    return found


# The table


def test_the_table_only_looks_down():
    for room in HOUSE:
        for below in room.may_import.split():
            assert PLACES[below] > PLACES[room.name], f"{room.name} may import {below}, which stands above it"


def test_no_import_is_missing_from_the_table():
    outside = [
        line for (above, below), lines in crossings().items() if below not in ROOMS[above].may_import.split()
        for line in lines
    ]  # fmt: skip
    assert outside == []


def test_the_library_never_imports_the_autopilot():
    assert [lines for (above, below), lines in crossings().items()
            if above.startswith("nanogpt") and below.startswith("flows")] == []  # fmt: skip


def test_what_only_the_autopilot_needs_is_not_imported_by_the_library():
    """But for two pages, whose templates stand next to them."""
    pages = {"nanogpt.data.inspection_page", "nanogpt.study.surprise_page"}
    outside = re.compile(r"^\s*(?:from|import) (prefect|git|jinja2)\b", re.MULTILINE)
    found = {
        name: set(outside.findall(module.path.read_text(encoding="utf-8")))
        for name, module in KNOWN.items()
        if name.startswith("nanogpt")
    }
    assert {name: libraries for name, libraries in found.items() if libraries} == {page: {"jinja2"} for page in pages}
    assert all(KNOWN[page].path.with_suffix(".html").is_file() for page in pages)


def test_no_imports_go_in_circles():
    try:
        TopologicalSorter({name: imports(module, KNOWN) for name, module in KNOWN.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_no_phase_imports_another():
    phases = {name: imports(module, KNOWN) for name, module in KNOWN.items() if name.startswith("flows.phases.")}
    assert {name: found & phases.keys() for name, found in phases.items() if found & phases.keys()} == {}


@pytest.mark.parametrize("module", KNOWN.values(), ids=KNOWN)
def test_no_type_of_ours_is_imported_for_the_type_checker_alone(module: Module):
    """Other packages' types may be, where loading them costs time that a comment names."""
    for block in type_checking_blocks(module):
        names = [getattr(node, "module", None) or node.names[0].name for node in block.body]
        assert not [name for name in names if name.split(".")[0] in ("flows", "nanogpt")], names
        assert "#" in module.path.read_text(encoding="utf-8").splitlines()[block.lineno - 1], "say why"


@pytest.mark.parametrize("room", HOUSE, ids=ROOMS)
def test_each_room_says_its_one_idea_in_a_line(room: Room):
    assert 20 < len(room.first_line) <= 117 and room.first_line.endswith(".")


@pytest.mark.parametrize("folder", sorted({name for name, module in KNOWN.items()
                                           if module.path.name == "__init__.py"}))  # fmt: skip
def test_each_folder_says_its_one_idea_in_a_line(folder):
    assert KNOWN[folder].first_line.endswith(".")


# Fast paths


@pytest.mark.slow
@pytest.mark.parametrize("module, arguments", [
    ("nanogpt.cli", ["--help"]),
    ("nanogpt.cli", ["train", "--help"]),
    ("flows.full_run", ["--help"]),
    ("flows.full_run", ["--no-bootstrap", "--status"]),
    ("flows.full_run", ["--no-bootstrap", "--plan"]),
])  # fmt: skip
def test_looking_loads_nothing_heavy(module, arguments, tmp_path):
    if "--no-bootstrap" in arguments:
        arguments = [*arguments, "--workspace", str(tmp_path)]
    asked = subprocess.run([sys.executable, "-X", "importtime", "-m", module, *arguments], cwd=CHECKOUT,
                           capture_output=True, text=True, timeout=120)  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    loaded = set(re.findall(r"^import time: .*\| +([\w.]+)$", asked.stderr, re.MULTILINE))
    assert module.partition(".")[0] in loaded
    assert loaded & {"torch", "prefect", "matplotlib", "transformers", "git"} == set()


# The document


def maps() -> str:
    """The table of the rooms, and a map of each package."""
    rows = ["| room | its one idea | may import |", "|---|---|---|"]
    rows += [f"| `{room.name}` | {room.first_line} | {_listed(room)} |" for room in HOUSE]
    return "\n\n".join(["\n".join(rows), _map("flows"), _map("nanogpt")])


def _listed(room: Room) -> str:
    below = room.may_import.split()
    own = [f"`{name}`" for name in below if _package(name) == _package(room.name)]
    other = [f"`{name}`" for name in below if _package(name) != _package(room.name)]
    return "; ".join(", ".join(names) for names in (own, other) if names) or "nothing"


def _map(package: str) -> str:
    """A room points at those it may import; what follows from other arrows is left out."""
    names = [name for name in ROOMS if _package(name) == package]
    below = {name: {other for other in ROOMS[name].may_import.split() if other in names} for name in names}
    lines = ["```mermaid", "flowchart TD"]
    lines += [f'    {_node(name)}["{name}"]' for name in names]
    for name in names:
        implied = set().union(*(_all_below(other, below) for other in below[name]))
        lines += [f"    {_node(name)} --> {_node(other)}" for other in names if other in below[name] - implied]
    return "\n".join([*lines, "```"])


def _all_below(name: str, below: dict[str, set[str]]) -> set[str]:
    return below[name].union(*(_all_below(other, below) for other in below[name]))


def _node(name: str) -> str:
    return name.replace(".", "_")


def _package(name: str) -> str:
    return name.partition(".")[0]


MAPS = re.compile(r"(<!-- maps: .* -->\n).*?(\n<!-- end of the maps -->)", re.DOTALL)


def test_the_document_draws_the_house_as_it_stands():
    drawn = MAPS.search(DOCUMENT.read_text(encoding="utf-8"))
    assert drawn and drawn[0] == f"{drawn[1]}\n{maps()}\n{drawn[2]}", "run: python -m tests.test_house --write"


def test_the_document_has_a_paragraph_for_each_room_in_the_same_order():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert re.findall(r"^\*\*`([\w.]+)`\*\*", text, re.MULTILINE) == list(ROOMS)


def test_the_document_names_files_that_exist():
    text = MAPS.sub("", DOCUMENT.read_text(encoding="utf-8"))
    names = set(re.findall(r"\b((?:flows|nanogpt|tests|docs)/[\w/]+\.\w+)", text))
    assert names and [name for name in sorted(names) if not (CHECKOUT / name).is_file()] == []


if __name__ == "__main__":
    assert sys.argv[1:] == ["--write"], "python -m tests.test_house --write"
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(MAPS.sub(lambda drawn: f"{drawn[1]}\n{maps()}\n{drawn[2]}", text), encoding="utf-8")


@pytest.mark.parametrize("module", KNOWN.values(), ids=KNOWN)
def test_a_share_is_written_in_one_way(module: Module):
    """'16 %', by nanogpt.units.percent: `:.0%` writes '16%'."""
    assert not re.search(r":[+,]?\.\d%\}", module.path.read_text(encoding="utf-8"))
