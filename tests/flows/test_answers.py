"""What the command answers before anything is installed: at once, from the standard library, changing nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nanogpt
from flows.cli.arguments import make_parser

CHECKOUT = Path(__file__).resolve().parents[2]
BARE_PYTHON = [getattr(sys, "_base_executable", sys.executable), "-S", "-E"]  # it sees no installed package
LIMIT = 0.3  # seconds
pytestmark = pytest.mark.fast


def ask(*arguments: str, checkout: Path = CHECKOUT) -> tuple[int, str, str]:
    done = subprocess.run([*BARE_PYTHON, "-m", "flows.full_run", *arguments], cwd=checkout, timeout=60,
                          capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def bare_checkout(tmp_path_factory) -> Path:
    """A fresh clone: no environment, no state."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("flows", "nanogpt", "configs"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    return folder


def test_help_is_as_wide_as_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, make_parser().format_help().splitlines())) < 65  # a long option may stand out a little


def test_help_is_the_whole_parsers(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert ask("--help") == (0, make_parser().format_help(), "")


def test_the_version_is_the_packages(bare_checkout):
    assert ask("--version", checkout=bare_checkout) == (0, f"nanogpt-autopilot {nanogpt.__version__}\n", "")
    code, said, _ = ask("--version")
    assert (code, said.split()[:2]) == (0, ["nanogpt-autopilot", nanogpt.__version__])


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--budgt", "3m"], 'unrecognized arguments: --budgt 3m (did you mean "--budget"?); --help lists the options'),
        (["--budget", "5"], "--budget: found 5, the shortest budget is 60s; a number without a unit is in seconds"),
        (["--only", "trainin"], 'no such phase (did you mean "training"?)'),
        (["--install-at-boot", "--fresh"], "--install-at-boot cannot go with --fresh"),
        (["--no-bootstrap"], "has no torch, prefect, pydantic, yaml, rich, psutil; leave the option out, or install"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_made(arguments, words, bare_checkout):
    code, said, error = ask(*arguments, checkout=bare_checkout)
    assert (code, said, error.count("\n")) == (2, "", 1) and words in error, error
    assert not (bare_checkout / ".venv").exists() and not (bare_checkout / "logs").exists()


def test_status_without_an_environment_shows_what_the_files_say(bare_checkout, tmp_path):
    code, said, error = ask("--status", checkout=bare_checkout)
    assert (code, error) == (0, "") and said.startswith("No environment yet: a start without --status makes it")
    assert "run default: never started" in said

    state = tmp_path / "state" / "mine"
    (state / "markers").mkdir(parents=True)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    session = {"state": "running", "pid": ended.pid, "sessions": 2, "started": "2026-11-28 20:00:00+01:00"}
    (state / "session.json").write_text(json.dumps(session))
    markers = {
        "training.micro": {"state": "started", "started_at": "2026-11-28 20:02:00+01:00"},
        "environment.machine": {"state": "finished", "finished_at": "2026-11-28 20:01:00+01:00"},
        "environment.tests": {"state": "finished", "finished_at": "2026-11-28 20:01:10+01:00", "left_out": "no time"},
        "dataset.fetch": {"state": "failed", "failed_at": "2026-11-28 20:01:30+01:00"},
    }
    for step, marker in markers.items():
        (state / "markers" / f"{step}.json").write_text(json.dumps({"step": step, **marker}))
    (state / "markers" / "rotten.json").write_text("[" * 100_000)
    os.mkfifo(state / "markers" / "pipe.json")
    before = sorted(tmp_path.rglob("*"))
    code, said, error = ask("--status", "--run", "mine", "--workspace", str(tmp_path), checkout=bare_checkout)
    assert (code, error) == (0, "")
    assert "run mine: interrupted (session 2, first started 2026-11-28 20:00:00)" in said
    assert [line.split()[:2] for line in said.splitlines() if line.startswith("  ")] == [
        ["environment.machine", "finished"], ["environment.tests", "left"], ["dataset.fetch", "failed"],
        ["training.micro", "started"],
    ]  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before and not (bare_checkout / ".venv").exists()
    (state / "copies").mkdir()
    (state / "session.json").rename(state / "copies/session.json")
    assert (
        "run mine: interrupted (session 2"
        in ask("--status", "--run", "mine", "--workspace", str(tmp_path), checkout=bare_checkout)[1]
    )


@pytest.mark.parametrize("question", ["--help", "--status", "--version", "--budgt"])
def test_the_answer_costs_less_than_a_third_of_a_second(question, bare_checkout):
    """Processor time, as others use the machine too; with Python's own start. Best of three."""
    times = []
    for _ in range(3):
        process = subprocess.Popen([*BARE_PYTHON, "-m", "flows.full_run", question], cwd=bare_checkout,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        times.append(usage.ru_utime + usage.ru_stime)
    assert min(times) < LIMIT
