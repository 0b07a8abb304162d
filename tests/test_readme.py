"""What README.md tells people to type is accepted, and what it says is there is there."""

import re
import shlex
from pathlib import Path

import pytest

from flows.cli.arguments import make_parser
from flows.cli.command_line import parse
from flows.full_run import PHASES
from nanogpt import cli

CHECKOUT = Path(__file__).resolve().parent.parent
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
pytestmark = pytest.mark.fast


@pytest.fixture
def letters(tmp_path, monkeypatch):
    """The folder ~/letters that the README speaks of."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("Dear Ada, " * 1000)


@pytest.mark.parametrize("command", [line for line in COMMANDS if "flows.full_run" in line])
def test_the_run_commands_are_understood(command, letters):
    words = shlex.split(command)
    assert words[:3] == ["python3", "-m", "flows.full_run"]
    parse([str(Path(word).expanduser()) if word.startswith("~") else word for word in words[3:]], PHASES)


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("nanogpt ")])
def test_the_library_commands_are_understood(command):
    parsed = cli.make_parser().parse_args(shlex.split(command)[1:])
    assert callable(parsed.run)


@pytest.mark.parametrize("command", [line for line in COMMANDS if "examples/" in line])
def test_the_examples_are_there(command):
    named = [word for word in shlex.split(command) if word.startswith("examples/")]
    assert named and [name for name in named if not (CHECKOUT / name).is_file()] == []


def test_every_option_is_in_the_readme_and_no_other():
    actions = make_parser()._actions
    known = {word for action in actions for word in action.option_strings if word.startswith("--")}
    named = set(re.findall(r"`(--[a-z-]+)", README.split("## Options")[1].split("##")[0]))
    assert named == known - {"--help"}


def test_the_tree_shows_every_room_and_nothing_else():
    tree = README.split("## How the code is organised")[1].split("```")[1]
    for package in ("flows", "nanogpt"):
        part = re.search(rf"^{package}/.*\n((?:  .*\n)+)", tree, re.MULTILINE)[1]
        names = set(re.findall(r"([a-z_]+(?:/|\.py))(?=[ :])", part))
        inner = {"update/", "record/"} & names
        assert [name for name in names - inner if not (CHECKOUT / package / name).exists()] == []
        rooms = {f"{path.name}/" for path in (CHECKOUT / package).iterdir() if (path / "__init__.py").is_file()}
        assert rooms - names == set()


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (CHECKOUT / target).exists(), target
