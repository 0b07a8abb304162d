"""A run that starts at every boot: the files as systemd and launchd themselves read them, and who takes them off when.

The managers are stand-ins on PATH that note what they are asked; nothing here touches the machine's own.
"""

import os
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.cli import at_boot, session, status
from flows.cli.command_line import parse
from flows.cli.lock import exclusive
from flows.context.command_words import PHASES
from flows.context.paths import CHECKOUT
from flows.runner.run import Run
from tests.flows.parts import assembled, one_step

ANALYZE = shutil.which("systemd-analyze")
WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), max_size=20)
AWKWARD = ["two words", 'a "quoted" one', "it's", "back\\slash", "end\\", "100 %", "%h", "$HOME", "${HOME}", "$$", ";",
           "", "-", "@x", "#x", "ü 🙂", "a=b", "  blanks  ", "<&>", "]]>", "\u2028"]  # fmt: skip
PARSED = parse(["--data", "embedded"], [])
BEING_DONE = "the run is done: it no longer starts at boot"


class Machine:
    """A home, its service managers, and a run in it."""

    def __init__(self, folder: Path, monkeypatch):
        self.home, self.workspace, self.bin = folder / "home", folder / "my 100% work", folder / "bin"
        self.asked = folder / "asked"
        self.bin.mkdir()
        self.monkeypatch = monkeypatch
        self.said: list[str] = []
        monkeypatch.setenv("HOME", str(self.home))
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")
        self.manager("systemctl")
        self.manager("launchctl")

    def manager(self, name: str, code: int = 0, complaint: str = "") -> None:
        script = self.bin / name
        script.write_text(f'#!/bin/sh\necho "{name} $*" >> "{self.asked}"\necho "{complaint}" >&2\nexit {code}\n')
        script.chmod(0o755)

    def be(self, platform: str) -> None:
        self.monkeypatch.setattr(at_boot, "sys", SimpleNamespace(platform=platform, executable=sys.executable))

    def run(self, *arguments: str) -> Run:
        return assembled(self.workspace, [], None, "--data", "embedded", *arguments)

    def install(self, *arguments: str) -> Path:
        run = self.run(*arguments)
        assert at_boot.install(run, [], self.said.append) == 0
        return at_boot.service_of(run.options).file

    def uninstall(self) -> None:
        assert at_boot.uninstall(self.run(), self.said.append) == 0

    @property
    def questions(self) -> str:
        return self.asked.read_text() if self.asked.exists() else ""

    @property
    def log(self) -> str:
        return (self.workspace / "logs/default/automation_log.txt").read_text()


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def main(machine: Machine, *arguments: str) -> int:
    """A start of a run that ends before its phases."""
    return session.main(["--workspace", str(machine.workspace), *arguments], [], None)


# The files --------------------------------------------------------------------------------------------------------


def texts(template: str, words: list[str]) -> str:
    """The file for a command with `words` at its end."""
    return at_boot.Service("name", Path("name"), template).text(PARSED, words)


def as_launchd_reads_it(text: str) -> list[str]:
    return plistlib.loads(text.encode())["ProgramArguments"]


def as_systemd_reads_it(text: str, folder: Path) -> list[str]:
    """systemd's own parser: `verify` tells at debug level what it has read, in quotes where needed."""
    (folder / "x.service").write_text(text)
    verified = subprocess.run(
        [ANALYZE, "--user", "--man=no", "verify", "x.service"], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "debug", "XDG_RUNTIME_DIR": str(folder)},
    )  # fmt: skip
    assert verified.returncode == 0, verified.stderr[-2000:]
    line = verified.stdout.split("Command Line: ", 1)[1].split("\n", 1)[0]
    words = re.findall(r'"((?:[^"\\]|\\.)*)"|([^ ]+)', line)
    return [plain or re.sub(r"\\(.)", r"\1", quoted) for quoted, plain in words]


@given(st.lists(WORDS | st.sampled_from(AWKWARD), max_size=8))
def test_launchd_reads_the_very_command(words):
    assert as_launchd_reads_it(texts("launchd.plist.j2", words)) == [
        sys.executable, "-m", "flows.full_run", "--data", "embedded", *words]  # fmt: skip


@pytest.mark.skipif(ANALYZE is None, reason="systemd's own parser is the judge")
@settings(max_examples=30)
@given(st.lists(WORDS | st.sampled_from(AWKWARD), max_size=8))
def test_systemd_reads_the_very_command(tmp_path_factory, words):
    folder = tmp_path_factory.getbasetemp()
    assert as_systemd_reads_it(texts("systemd.service.j2", [*words, *AWKWARD]), folder) == [
        sys.executable, "-m", "flows.full_run", "--data", "embedded", *words, *AWKWARD]  # fmt: skip


@pytest.mark.skipif(ANALYZE is None, reason="systemd's own parser is the judge")
def test_a_checkout_and_a_path_with_awkward_names_are_read_as_they_are(tmp_path, monkeypatch):
    checkout = tmp_path / 'my "100%" $HOME checkout'
    checkout.mkdir()
    monkeypatch.setattr(at_boot, "CHECKOUT", checkout)
    monkeypatch.setenv("PATH", f'{os.environ["PATH"]}:/a "b" %h $c')
    monkeypatch.setenv("https_proxy", "http://me:p%40ss$word@proxy:3128")
    text = texts("systemd.service.j2", [])
    monkeypatch.setenv("SYSTEMD_LOG_LEVEL", "debug")
    (tmp_path / "x.service").write_text(text)
    verified = subprocess.run([ANALYZE, "--user", "--man=no", "verify", "x.service"], cwd=tmp_path, text=True,
                              capture_output=True, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)})  # fmt: skip
    assert f"WorkingDirectory: {checkout}\n" in verified.stdout
    for name in ("PATH", "https_proxy"):
        assert f"Environment: {name}={os.environ[name]}\n" in verified.stdout
    agent = plistlib.loads(texts("launchd.plist.j2", []).encode())
    assert agent["WorkingDirectory"] == str(checkout)
    assert agent["EnvironmentVariables"]["PATH"] == os.environ["PATH"]
    assert agent["EnvironmentVariables"]["https_proxy"] == os.environ["https_proxy"]


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_proxies_certificates_and_caches_come_along_for_nobody_else_to_read(machine, monkeypatch, platform):
    machine.be(platform)
    for name in at_boot.INHERITED[1:]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    monkeypatch.setenv("HF_HOME", "/mnt/my models")
    monkeypatch.setenv("UNRELATED", "private")
    file = machine.install()
    text = file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    if platform == "darwin":
        environment = plistlib.loads(text.encode())["EnvironmentVariables"]
    else:
        lines = re.findall(r'^Environment="(.*?)=(.*)"$', text, re.MULTILINE)
        environment = dict(lines)
    assert environment == {
        "PATH": os.environ["PATH"], "HTTPS_PROXY": "http://me:secret@proxy:3128", "HF_HOME": "/mnt/my models",
        at_boot.VARIABLE: at_boot.service_of(machine.run().options).name,
    }  # fmt: skip


def test_the_agent_starts_again_only_what_was_killed(machine):
    machine.be("darwin")
    agent = plistlib.loads(machine.install("--budget", "1h").read_bytes())
    assert agent["RunAtLoad"] and agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["ProgramArguments"][-2:] == ["--budget", "1h"]
    machine.monkeypatch.setenv(at_boot.VARIABLE, agent["Label"])
    assert [at_boot.code_for_manager(code) for code in (0, 1, 2, 130)] == [0, 0, 0, 0]
    machine.be("linux")
    assert [at_boot.code_for_manager(code) for code in (0, 1, 2, 130)] == [0, 1, 2, 130]


def test_the_unit_starts_again_what_failed_a_few_times_and_never_a_mistake(machine):
    machine.be("linux")
    lines = machine.install().read_text().splitlines()
    for line in ("Restart=on-failure", "RestartPreventExitStatus=2", "SuccessExitStatus=130", "StartLimitBurst=5",
                 f"WorkingDirectory={CHECKOUT}"):  # fmt: skip
        assert line in lines


@pytest.mark.parametrize("awkward", ["a\nb", "a\x00b".replace("\0", "\x07"), "\udcff"])
def test_what_no_file_can_hold_is_refused_before_anything_is_written(machine, awkward):
    machine.monkeypatch.setenv("PATH", f"/bin:{awkward}")
    assert main(machine, "--data", "embedded", "--install-at-boot") == 2
    assert not machine.home.exists()


# Installing and taking off ----------------------------------------------------------------------------------------


def test_it_is_shown_written_enabled_and_says_how_to_undo(machine):
    machine.be("linux")
    file = machine.install()
    assert file.parent == machine.home / ".config/systemd/user"
    assert machine.said[0] == f"{file}:\n\n{file.read_text()}"
    assert machine.questions.splitlines() == ["systemctl --user daemon-reload",
                                              f"systemctl --user enable --now {file.name}"]  # fmt: skip
    said = "\n".join(machine.said)
    assert "Enabled and started" in said and "--data embedded --uninstall" in said and "enable-linger" in said
    machine.uninstall()
    assert not file.exists() and f"disable --now {file.name}" in machine.questions
    machine.uninstall()
    assert "does not start at boot" in machine.said[-1]


def test_on_a_mac_launchd_is_asked(machine):
    machine.be("darwin")
    file = machine.install()
    assert file.parent == machine.home / "Library/LaunchAgents"
    assert f"launchctl bootstrap gui/{os.getuid()} {file}" in machine.questions
    machine.uninstall()
    assert not file.exists() and f"launchctl bootout gui/{os.getuid()}/{file.stem}" in machine.questions


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_run_that_is_running_is_not_started_twice(machine, platform):
    machine.be(platform)
    with exclusive(machine.run().paths, "default"):
        machine.install()
    assert "--now" not in machine.questions and "bootstrap" not in machine.questions
    assert any("is left alone" in line for line in machine.said)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_manager_that_does_not_answer_costs_nothing_and_the_file_can_be_taken_off(machine, platform):
    machine.be(platform)
    for name in ("systemctl", "launchctl"):
        machine.manager(name, 1, "Failed to connect to bus")
    file = machine.install()
    assert file.exists() and any("(Failed to connect to bus)" in line for line in machine.said)
    machine.uninstall()
    assert not file.exists()


def test_the_status_says_that_it_starts_at_boot(machine, capsys):
    assert status.show(machine.run()) == 0
    assert "at boot" not in capsys.readouterr().out
    machine.install()
    assert status.show(machine.run()) == 0
    assert "Started at boot until it is done" in capsys.readouterr().out


def test_two_workspaces_have_services_of_their_own(machine):
    one = at_boot.service_of(machine.run().options).file
    machine.workspace = machine.workspace.with_name("another")
    assert at_boot.service_of(machine.run().options).file != one


def test_the_configuration_folder_is_the_persons_choice(machine, tmp_path):
    machine.be("linux")
    machine.monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "mine"))
    assert machine.install().parent == tmp_path / "mine/systemd/user"


def test_what_is_for_one_start_is_no_command_for_every_boot(machine):
    for option in (["--fresh"], ["--only", "training"], ["--redo", "dataset.fetch"], ["--status"], ["--uninstall"]):
        assert main(machine, "--install-at-boot", *option) == 2
    assert not machine.workspace.exists() and not machine.home.exists()


@pytest.mark.parametrize("failing, left", [(False, False), (True, True)])
def test_a_run_takes_itself_off_when_it_is_done_and_not_before(machine, failing, left):
    machine.be("linux")
    file = machine.install()
    link = file.parent / "default.target.wants" / file.name
    link.parent.mkdir()
    link.symlink_to(file)

    def work(run: Run) -> None:
        if failing:
            raise RuntimeError("no remedy is left")

    def flow(run: Run) -> None:
        for phase in run.phases:
            run.run_phase(phase)

    arguments = ["--workspace", str(machine.workspace), "--data", "embedded", "--no-ui", "--set", "milestones=false"]
    phases = [one_step(name, work) for name in PHASES]
    assert session.main(arguments, phases, flow) == (1 if failing else 0)
    assert file.exists() == link.is_symlink() == left
    assert (BEING_DONE in machine.log) != left
