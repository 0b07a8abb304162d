"""`nanogpt train --help` names every setting with its kind, its default and what it does."""

import subprocess
import sys

import pytest

from nanogpt import cli
from nanogpt.commands import settings_help
from nanogpt.config import Config
from tests.conftest import CHECKOUT

pytestmark = pytest.mark.fast

SETTINGS = [
    (f"{section}{name}", field)
    for section, _, fields in settings_help.sections(Config)
    for name, field in fields.items()
]  # fmt: skip


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [60, 78, 118, 200])
def test_every_setting_appears_with_its_default_and_description(width):
    shown = settings_help.settings_help(width)
    assert max(map(len, shown.splitlines())) <= width
    for key, field in SETTINGS:
        kind, default = settings_help.kind_of(field.annotation), settings_help.as_yaml(field.get_default())
        assert words(f"{key} {kind} ({default}) {field.description}") in words(shown), key


@pytest.mark.parametrize("key, field", SETTINGS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_setting_has_a_description(key, field):
    assert field.description and len(field.description) > 3


def test_a_default_that_is_shown_can_be_typed():
    overrides = {key: settings_help.as_yaml(field.get_default()) for key, field in SETTINGS}
    from nanogpt.config import parse_overrides

    values = parse_overrides(f"{key}={text}" for key, text in overrides.items())
    assert Config().with_changes(dict(values)) == Config()


def test_the_list_is_a_part_of_the_commands_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    shown = capsys.readouterr().out
    assert "--micro-batch" in shown
    assert settings_help.HEADING in shown and "training.learning_rate FLOAT (0.01)" in shown


def test_the_help_of_train_needs_no_torch():
    code = (
        "import sys; from nanogpt import cli\n"
        "try: cli.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'matplotlib', 'rich')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True).returncode == 0
