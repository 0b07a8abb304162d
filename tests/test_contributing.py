"""What the repository says of itself: its commands work, its forms are valid, its version is the same everywhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import nanogpt

CHECKOUT = Path(__file__).resolve().parent.parent
CONTRIBUTING = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COMMANDS = [command for row in re.findall(r"^\|.*\| `(.*)` \|$", CONTRIBUTING, re.MULTILINE)
            for command in row.split(" && ")]  # fmt: skip
FORMS = sorted((CHECKOUT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
PROGRAMS = Path(sys.executable).parent


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *command], cwd=CHECKOUT, capture_output=True, text=True, timeout=300)


def commands(beginning: str) -> list[list[str]]:
    found = [shlex.split(command)[len(beginning.split()) :] for command in COMMANDS if command.startswith(beginning)]
    assert found, f"CONTRIBUTING.md has no {beginning}"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [words for words in commands("python3 -m tests") if words and "/" in words[0]])
def test_what_runs_a_part_of_the_tests_finds_it(arguments):
    done = run("pytest", "--collect-only", "-p", "no:cacheprovider", *arguments)
    assert done.returncode == 0 and "tests/" in done.stdout, done.stdout


@pytest.mark.parametrize("arguments", commands(".venv/bin/ruff"))
def test_the_style_is_kept(arguments):
    pytest.importorskip("ruff")
    done = run("ruff", *arguments)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("arguments", commands(".venv/bin/mypy"))
def test_the_types_are_kept(arguments):
    pytest.importorskip("mypy")
    if not (CHECKOUT / ".mypy_cache").is_dir():  # then to write one costs a sixth of the time, and nobody reads it
        arguments = [*arguments, "--cache-dir", os.devnull]
    done = run("mypy", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", commands(".venv/bin/python -m bench.faults"))
def test_the_campaign_takes_its_options(arguments):
    done = run("bench.faults", *arguments, "--list")
    assert done.returncode == 0 and len(done.stdout.splitlines()) >= 10, done.stderr


def test_the_hooks_are_programs_of_the_environment():
    (repository,) = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local", "nothing is fetched"
    for hook in repository["hooks"]:
        program = Path(shlex.split(hook["entry"])[0])
        assert program.parent == Path(".venv/bin") and hook["language"] == "system"
        if shutil.which("ruff", path=PROGRAMS):  # the environment has what the tests need
            assert shutil.which(program.name, path=PROGRAMS), program


@pytest.mark.fast
def test_the_version_stands_once_and_is_repeated_rightly():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "nanogpt.__version__"}
    newest = re.search(
        r"^## \[(.+?)\] - (Unreleased|\d{4}-\d\d-\d\d)$", (CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert newest and newest[1] == nanogpt.__version__
    assert yaml.safe_load((CHECKOUT / "CITATION.cff").read_text())["version"] == nanogpt.__version__


@pytest.mark.fast
def test_the_citation_has_what_cff_demands_and_nothing_unknown():
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert {"message", "title", "authors"} <= set(citation) and all("name" in author for author in citation["authors"])
    assert citation["license"] == tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["license"]
    assert (CHECKOUT / "LICENSE").read_text().startswith(f"{citation['license']} License")


@pytest.mark.fast
@pytest.mark.parametrize("path", [form for form in FORMS if form.stem != "config"], ids=lambda form: form.stem)
def test_the_issue_forms_are_as_githubs_schema_has_them(path):
    form = yaml.safe_load(path.read_text())
    assert set(form) <= {"name", "description", "title", "labels", "body"} and form["name"] and form["description"]
    ids = [element["id"] for element in form["body"]]
    assert len(set(ids)) == len(ids)
    for element in form["body"]:
        assert set(element) <= {"type", "id", "attributes", "validations"}
        assert element["type"] in ("input", "textarea") and element["attributes"]["label"]
    assert any(element.get("validations", {}).get("required") for element in form["body"])


@pytest.mark.fast
def test_a_bug_report_asks_for_the_files_that_explain_it():
    text = next(form for form in FORMS if form.stem == "bug").read_text()
    assert "`state/<run>`" in text and "`logs/<run>/automation_log.txt`" in text and "--version" in text
