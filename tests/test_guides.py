"""What the guides in docs/ tell people to type is accepted, and the settings that they name exist."""

import re
import shlex
from pathlib import Path

import pytest

from flows.cli.command_line import parse
from flows.full_run import PHASES
from nanogpt import cli
from nanogpt.config import Config, load_config

CHECKOUT = Path(__file__).resolve().parent.parent
NAMES = (
    "quick_start",
    "choosing",
    "resume",
    "sharing",
    "troubleshooting",
    "training_guide",
    "weights",
    "formats",
    "comparing",
    "study",
)
GUIDES = [CHECKOUT / "docs" / f"{name}.md" for name in NAMES]
FILES = {"model.safetensors", "model.gguf", "model.onnx"}
GUIDE = "\n".join(path.read_text(encoding="utf-8") for path in GUIDES)
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()]
pytestmark = pytest.mark.fast


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("nanogpt ") and "--help" not in line])
def test_the_commands_and_the_settings_in_them_are_understood(command):
    parsed = cli.make_parser().parse_args(shlex.split(command)[1:])
    assert callable(parsed.run)
    if "config" in parsed:
        init = [f"training.init_from={parsed.init}"] if getattr(parsed, "init", None) else []
        load_config(CHECKOUT / parsed.config, [*parsed.set, *init])


@pytest.mark.parametrize("command", [line for line in COMMANDS if "flows.full_run" in line])
def test_the_run_commands_are_understood(command, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("Dear Ada, " * 1000)
    words = shlex.split(command)
    assert words[:3] == ["python3", "-m", "flows.full_run"]
    parse([str(Path(word).expanduser()) if word.startswith("~") else word for word in words[3:]], PHASES)


def test_every_setting_in_the_tables_exists():
    for key in set(re.findall(r"`((?:training|device|model)\.[a-z_]+)`", GUIDE)) - FILES:
        section, name = key.split(".")
        assert name in type(getattr(Config(), section)).model_fields, key


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_links_lead_somewhere(guide):
    for target in re.findall(r"\]\(([^)#]+)\)", guide.read_text(encoding="utf-8")):
        assert target.startswith("http") or (guide.parent / target).exists(), target
