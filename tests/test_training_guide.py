"""What docs/training_guide.md tells people to type is accepted, and the settings that it names exist."""

import re
import shlex
from pathlib import Path

import pytest

from nanogpt import cli
from nanogpt.config import Config, load_config

CHECKOUT = Path(__file__).resolve().parent.parent
GUIDE = (CHECKOUT / "docs" / "training_guide.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()]
pytestmark = pytest.mark.fast


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("nanogpt ") and "--help" not in line])
def test_the_commands_and_the_settings_in_them_are_understood(command):
    parsed = cli.make_parser().parse_args(shlex.split(command)[1:])
    assert callable(parsed.run)
    if "config" in parsed:
        load_config(CHECKOUT / parsed.config, parsed.set)


def test_every_setting_in_the_tables_exists():
    for key in re.findall(r"`((?:training|device|model)\.[a-z_]+)`", GUIDE):
        section, name = key.split(".")
        assert name in type(getattr(Config(), section)).model_fields, key
