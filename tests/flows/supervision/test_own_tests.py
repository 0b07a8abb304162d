"""The project's own tests: once for a workspace, code and set of packages, and never for long."""

import math
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.full_run import PHASES
from flows.ledger.code_digests import EDITED
from flows.ledger.facts import TESTS
from flows.ledger.facts import Tests as Outcome
from flows.ledger.ledger import Ledger
from flows.ledger.steps import StepResult, StepSpec
from flows.runner.run import Run
from flows.supervision import own_tests
from tests.flows.parts import assembled

pytestmark = pytest.mark.fast
CODE = {"nanogpt/**": "1" * 64, "tests/nanogpt/**": "2" * 64}
PASSED = Outcome(command="python -m pytest", passed=700, failed=0, skipped=3, seconds=18.0, timed_out=False, tail="")


class Workspace:
    """Its runs, in which the tests ended in one way or another."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "code.py").write_text("")

    @property
    def states(self) -> Path:
        return self.folder / "state"

    def ledger(self, run: str) -> Ledger:
        return Ledger(self.states / run / "markers", self.folder, self.folder)

    @property
    def code(self) -> dict[str, str]:
        return self.ledger("any").code_of(self.step)

    step = StepSpec(key=TESTS, title="Run the project's fast tests", code=("code.py",))

    def finish(self, run: str, facts: Outcome = PASSED, surroundings: str | None = None) -> None:
        digest = own_tests.surroundings_digest() if surroundings is None else surroundings
        ledger = self.ledger(run)
        ledger.start(self.step, {}, "never run")
        ledger.finish(self.step, StepResult(replace(facts, surroundings=digest)), seconds=facts.seconds)

    def fail(self, run: str) -> None:
        ledger = self.ledger(run)
        ledger.start(self.step, {}, "asked for (--redo)")
        ledger.fail(self.step, "1 failed")

    def interrupt(self, run: str) -> None:
        self.ledger(run).start(self.step, {}, "never run")

    def earlier(self) -> Outcome | None:
        return own_tests.earlier(self.states, self.code)


@pytest.fixture(autouse=True, scope="module")
def packages_are_listed_once():
    """Reading what is installed takes 50 ms, and was most of this module's time."""
    installed = own_tests.installed_packages()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_tests, "installed_packages", lambda: installed)
        yield


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path)


def test_what_another_run_of_the_workspace_gave_is_taken_and_dated(workspace):
    assert workspace.earlier() is None
    workspace.finish("night")
    found = workspace.earlier()
    assert (found.passed, found.skipped) == (700, 3)
    finished_at = workspace.ledger("night").marker(TESTS.step).finished_at
    assert found.taken_from == finished_at[:16]
    workspace.finish("morning", found)  # as a run records what it has taken
    assert workspace.earlier().taken_from == finished_at[:16]


def test_with_other_code_they_are_run_again(workspace):
    workspace.finish("night")
    (workspace.folder / "code.py").write_text("changed = True\n")
    assert workspace.earlier() is None
    workspace.finish("morning")
    assert workspace.earlier() is not None


@pytest.mark.parametrize("surroundings", ["", "0" * 64])
def test_with_other_packages_they_are_run_again(workspace, surroundings):
    """Of a run with an older version, which noted no packages, nobody knows."""
    workspace.finish("night", surroundings=surroundings)
    assert workspace.earlier() is None


@pytest.mark.parametrize("facts", [replace(PASSED, timed_out=True), own_tests.not_run("the run is late")])
def test_what_was_cut_short_or_not_run_says_nothing(workspace, facts):
    workspace.finish("night", facts)
    assert workspace.earlier() is None


def test_after_a_failure_they_are_run_again_whatever_was_before(workspace):
    workspace.finish("night")
    workspace.finish("morning")
    workspace.fail("morning")
    assert workspace.earlier() is None
    workspace.interrupt("morning")  # a start that was killed has mended nothing
    assert workspace.earlier() is None
    workspace.finish("morning")
    assert workspace.earlier() is not None


def test_a_failure_with_other_code_is_of_the_past(workspace):
    workspace.fail("night")
    (workspace.folder / "code.py").write_text("mended = True\n")
    workspace.finish("morning")
    assert workspace.earlier() is not None


def test_a_start_that_was_interrupted_leaves_what_was_found_before(workspace):
    workspace.finish("night")
    workspace.interrupt("night")
    assert workspace.earlier().passed == 700


def test_code_that_was_edited_while_it_ran_matches_none(workspace):
    workspace.finish("night")
    assert own_tests.earlier(workspace.states, {**workspace.code, "nanogpt/**": EDITED}) is None


def test_a_note_that_cannot_be_read_is_none(workspace):
    workspace.finish("night")
    for copy in workspace.states.rglob("*.json"):
        copy.write_text("{half")
    assert workspace.earlier() is None


def test_every_package_counts(monkeypatch):
    digests = set()
    for installed in ({"torch": "2.13"}, {"torch": "2.14"}, {"torch": "2.13", "numpy": "2"}):
        monkeypatch.setattr(own_tests, "installed_packages", lambda installed=installed: installed)
        digests.add(own_tests.surroundings_digest())
    assert len(digests) == 3


# How long they may take --------------------------------------------------------------------------------------------


@given(budget=st.floats(1.0, 1e7), spare=st.floats(-1e7, 1e7))
def test_they_leave_the_phases_after_them_their_time(budget, spare):
    allowed = own_tests.seconds_allowed(budget, spare)
    assert allowed == 0.0 or own_tests.LEAST_SECONDS <= allowed <= min(600.0, spare)
    assert own_tests.seconds_allowed(budget, math.inf) == 600.0


def test_they_are_not_begun_in_less_time_than_they_take():
    """Stopped before their end they say nothing, and the report warns of it."""
    assert own_tests.seconds_allowed(300.0, 18.0) == 0.0
    assert own_tests.too_little(300.0, 18.0).startswith("the rest of the run leaves 15.0 s for them, and they take 30")
    assert own_tests.too_little(300.0, -5.0).startswith("the rest of the run leaves no time for them")


# In a run ----------------------------------------------------------------------------------------------------------


class Suite:
    """In the place of Python: a program that notes that it was started, and ends as it is asked to."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.notes = folder, folder / "started"
        monkeypatch.setattr(own_tests.sys, "executable", str(folder / "python"))
        self.ends("echo '700 passed, 3 skipped in 18.00s'")

    def ends(self, script: str) -> None:
        program = self.folder / "python"
        program.write_text(f'#!/bin/sh\necho "$@" >> {self.notes}\n{script}\n')
        program.chmod(0o755)

    @property
    def starts(self) -> int:
        return len(self.notes.read_text().splitlines()) if self.notes.exists() else 0


@pytest.fixture
def suite(tmp_path, monkeypatch) -> Suite:
    (tmp_path / "bin").mkdir()
    return Suite(tmp_path / "bin", monkeypatch)


def run_of(folder: Path, *arguments: str) -> Run:
    return assembled(folder / "workspace", PHASES, None, "--data", "embedded", *arguments)


def do(run: Run) -> Outcome:
    return run.do(TESTS)


def test_two_runs_of_a_workspace_run_them_once_and_a_redo_again(tmp_path, suite):
    first = do(run_of(tmp_path, "--run", "night", "--budget", "10m"))
    assert (first.passed, first.skipped, first.taken_from) == (700, 3, "") and suite.starts == 1
    later = run_of(tmp_path, "--run", "morning", "--budget", "20m")
    taken = do(later)
    assert taken.taken_from and taken.passed == 700 and suite.starts == 1
    assert "700 passed before with this code" in (later.paths.logs / "automation_log.txt").read_text()
    again = do(run_of(tmp_path, "--run", "morning", "--budget", "20m", "--redo", TESTS.step))
    assert again.taken_from == "" and suite.starts == 2


def test_a_failure_is_found_again_by_the_next_run(tmp_path, suite):
    do(run_of(tmp_path, "--run", "night", "--budget", "10m"))
    suite.ends("echo '1 failed, 699 passed in 18.00s'; exit 1")
    with pytest.raises(RuntimeError, match="the project's tests fail here: 1 failed, 699 passed"):
        do(run_of(tmp_path, "--run", "night", "--budget", "10m", "--redo", TESTS.step))
    with pytest.raises(RuntimeError, match="the project's tests fail here"):
        do(run_of(tmp_path, "--run", "morning", "--budget", "10m"))
    assert suite.starts == 3
    suite.ends("echo '700 passed in 18.00s'")
    assert do(run_of(tmp_path, "--run", "morning", "--budget", "10m")).passed == 700


def test_a_run_without_time_leaves_them_out_and_a_larger_budget_runs_them(tmp_path, suite, monkeypatch):
    with monkeypatch.context() as late:
        late.setattr(Run, "spare_seconds", property(lambda run: 12.0))
        assert do(run_of(tmp_path, "--budget", "5m")).not_run and suite.starts == 0
    assert do(run_of(tmp_path, "--budget", "10m")).passed == 700


def test_what_is_asked_for_is_run_however_late_it_is(tmp_path, suite, monkeypatch):
    monkeypatch.setattr(Run, "spare_seconds", property(lambda run: -12.0))
    assert do(run_of(tmp_path, "--budget", "90s")).not_run and suite.starts == 0
    assert do(run_of(tmp_path, "--budget", "90s", "--redo", TESTS.step)).passed == 700


def test_where_the_run_is_late_they_take_no_time_from_what_the_models_are_judged_by(tmp_path, suite, monkeypatch):
    monkeypatch.setattr(Run, "is_late", property(lambda run: True))
    assert "leaves no time for them" in do(run_of(tmp_path, "--budget", "10m")).not_run and suite.starts == 0


def test_they_are_stopped_when_what_was_left_is_over(tmp_path, suite, monkeypatch):
    monkeypatch.setattr(own_tests, "LEAST_SECONDS", 0.1)
    monkeypatch.setattr(Run, "spare_seconds", property(lambda run: 9.0))
    suite.ends("exec sleep 600")
    facts = do(run_of(tmp_path, "--budget", "10m", "--set", "tests=true"))
    assert facts.timed_out and not facts.has_finished and 2.9 <= facts.seconds < 60


def test_what_a_test_has_started_is_ended_with_them(tmp_path, suite):
    """It would take a core of the phases after them."""
    suite.ends(f"sleep 600 & echo $! > {tmp_path}/pid; sleep 600")
    assert own_tests.run_own_tests(1.0, tmp_path / "log", lambda: None).timed_out
    started, until = int((tmp_path / "pid").read_text()), time.monotonic() + 30
    while not (is_over := has_ended(started)) and time.monotonic() < until:
        time.sleep(0.05)
    assert is_over


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_command_is_the_fast_selection_without_a_trace_in_the_checkout(tmp_path, suite):
    do(run_of(tmp_path, "--budget", "10m"))
    [line] = suite.notes.read_text().splitlines()
    assert line == "-m pytest -m fast -p no:cacheprovider tests/nanogpt"
    assert own_tests.not_run("").command == "python -m pytest -m fast tests/nanogpt"
