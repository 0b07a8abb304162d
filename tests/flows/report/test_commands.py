"""The command of a run as it may be shared, and those that use its model."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from flows.report import commands
from flows.report.commands import shareable

pytestmark = pytest.mark.fast
RUN = "python3 -m flows.full_run"


@pytest.mark.parametrize("words, shared", [
    ("--budget 10m --run night", "--budget 10m --run night"),
    ("--workspace /home/ada/x --budget 1h", "--budget 1h"),
    ("--workspace=/home/ada/x --no-ui", "--no-ui"),
    ("--data tiny_shakespeare", "--data tiny_shakespeare"),
    ("--data '/home/ada/my letters/to mum & dad.txt'", "--data 'to mum & dad.txt'"),
    ("--data=letters/mum/ --config configs/micro.yaml", "--data mum --config configs/micro.yaml"),
    ("--config /home/ada/micro.yaml", "--config micro.yaml"),
    ("--config ../secret/micro.yaml", "--config micro.yaml"),
    ("--set data.source=secret/mum.txt", "--set data.source=mum.txt"),
    ("--set=data.source=~/secret/a=b/mum.txt", "--set data.source=mum.txt"),
    ("--set data.mirror=/mnt/ada --set training.seed=3", "--set training.seed=3"),
    ("--set=data.mirror=https://ada.example/x --budget 1h", "--budget 1h"),
    ("--set 'ladder=[micro, /home/ada/a.yaml, ~/b/c.yaml]'", "--set 'ladder=[micro, a.yaml, c.yaml]'"),
    ("--set training.learning_rate=1e-3", "--set training.learning_rate=1e-3"),
    ("--set", "--set"),
])  # fmt: skip
def test_a_shared_command_has_no_place_of_a_machine(words, shared):
    assert shareable(f"{RUN} {words}") == f"{RUN} {shared}"
    assert shareable(shareable(f"{RUN} {words}")) == f"{RUN} {shared}"


def test_a_command_that_a_step_ran_is_shown_as_it_runs_here():
    typed = shlex.split(commands.as_here("nanogpt serve /a/best"))
    assert typed[-2:] == ["serve", "/a/best"]
    assert subprocess.run([*typed[:-2], "--version"], capture_output=True).returncode == 0
    assert shlex.split(commands.as_here("python3 examples/complete.py")) == [
        commands.near(Path(sys.executable)),
        "examples/complete.py",
    ]
    assert commands.as_here("git log") == "git log"


@pytest.mark.parametrize("installed, on_the_path", [(True, True), (True, False), (False, False)])
def test_the_command_that_talks_runs_when_it_is_typed(installed, on_the_path, tmp_path, monkeypatch):
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    if installed:
        (programs / "nanogpt").write_text(f'#!/bin/sh\nexec {sys.executable} -m nanogpt.cli "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin" if on_the_path else "/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.chdir(tmp_path)
    typed = commands.chat(tmp_path / "exports/a run/best")
    names = {(True, True): "nanogpt", (True, False): ".venv/bin/nanogpt"}
    assert shlex.split(typed)[0] == names.get((installed, on_the_path), ".venv/bin/python")
    done = subprocess.run(["sh", "-c", f"{typed} --help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage: nanogpt chat" in done.stdout, done.stderr
