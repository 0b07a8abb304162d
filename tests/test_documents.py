"""The documents: they build as a site without a warning, name every module, and quote messages that the code has."""

import ast
import importlib.util
import re
import subprocess
import sys

import pytest
import yaml

from flows.context.options import RunConfig
from nanogpt import cli
from tests.conftest import CHECKOUT
from tests.nanogpt.watch_case import make_run

DOCS = CHECKOUT / "docs"
TROUBLESHOOTING = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^### `(.*)`$", TROUBLESHOOTING, re.MULTILINE)
ANYTHING = "…"


def words_of(node: ast.AST) -> str | None:
    """A string of the source, with … for what is put into it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(words_of(value) or ANYTHING for value in node.values)
    return None


@pytest.fixture(scope="module")
def messages() -> list[str]:
    """Every string in the two packages."""
    found = []
    for path in [*CHECKOUT.glob("nanogpt/**/*.py"), *CHECKOUT.glob("flows/**/*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [words for node in ast.walk(tree) if (words := words_of(node)) and len(words) > 5]
    return found


@pytest.mark.fast
@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_troubleshooting_explains_is_one_of_the_code(message, messages):
    parts = [re.escape(part) for part in message.split(ANYTHING)]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    assert sum(len(part) for part in parts) > 8, "it would fit anything"
    assert any(pattern.fullmatch(words) for words in messages)


@pytest.mark.fast
def test_no_message_is_explained_twice():
    assert len(set(MESSAGES)) == len(MESSAGES) >= 36


@pytest.mark.fast
def test_the_settings_of_the_quick_start_are_those_of_a_run(tmp_path):
    for block in re.findall(r"```yaml\n(.*?)```", (DOCS / "quick_start.md").read_text(encoding="utf-8"), re.DOTALL):
        config = RunConfig.model_validate(yaml.safe_load(block))
        assert config.notify.webhook and config.notify.command and config.notify.desktop


@pytest.mark.fast
def test_every_guide_is_in_the_contents_and_in_the_navigation():
    guides = {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    contents = (DOCS / "README.md").read_text(encoding="utf-8")
    navigation = (DOCS / "zensical.toml").read_text(encoding="utf-8")
    assert {name for name in guides if f"]({name})" not in contents} == set()
    assert {name for name in guides if f'"{name}"' not in navigation} == set()


@pytest.mark.fast
@pytest.mark.parametrize("command", ["nanogpt plan configs/tiny_model.yaml", "nanogpt train --help",
                                     "nanogpt watch checkpoints/default"])  # fmt: skip
def test_what_the_guides_tell_to_type_works(command, tmp_path, monkeypatch, capsys):
    guides = "\n".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    assert re.search(rf"^{re.escape(command)}$", guides, re.MULTILINE)
    make_run(tmp_path, state="finished")
    (tmp_path / "configs").symlink_to(CHECKOUT / "configs")
    monkeypatch.chdir(tmp_path)
    try:
        assert cli.main(command.split()[1:]) == 0
    except SystemExit as end:  # --help
        assert end.code == 0
    assert len(capsys.readouterr().out) > 100


@pytest.mark.slow
@pytest.mark.skipif(
    not (importlib.util.find_spec("zensical") and importlib.util.find_spec("mkdocstrings")), reason="no site generator"
)
def test_the_site_builds_without_a_warning_and_names_every_module(tmp_path):
    built = subprocess.run([sys.executable, DOCS / "site.py", tmp_path / "site"], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "Warning" not in built.stdout + built.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    reference = "".join(text for path, text in pages.items() if path.parent.name == "reference")
    modules = [path for path in CHECKOUT.glob("nanogpt/**/*.py") if path.name != "__init__.py"]
    names = {".".join(path.relative_to(CHECKOUT).with_suffix("").parts) for path in modules}
    assert {name for name in names if f'id="{name}"' not in reference} == set()
    assert 'id="nanogpt.model.gpt.GPT.loss_sum"' in reference
    loaded = re.findall(r'<(?:script|link|img)\b[^>]*\b(?:src|href)="(https?:[^"]+)"', "".join(pages.values()))
    assert loaded == []  # what a page needs is with it
