"""The report is written whatever happened, and of this run alone."""

import subprocess
from dataclasses import replace

import pytest

from flows.ledger.facts import FIGURES, PLANNED, REPORTED, Reported, trained
from flows.ledger.steps import StepResult
from flows.phases import documentation
from flows.report.facts import facts_of
from flows.runner.milestones import Milestones
from flows.runner.run import Phase
from nanogpt import durable
from tests.flows.parts import RecordingDisplay
from tests.flows.real_run import finish, real_run

pytestmark = pytest.mark.fast
MICRO = trained("micro")


def test_the_report_says_nothing_of_the_past_where_a_phase_failed(tmp_path):
    run = real_run(tmp_path)
    finish(run, MICRO)
    assert facts_of(run, MICRO).best_step == 420  # --only documentation
    record = run.phase_runner.record("training")
    record.status, record.cause = "blocked", "dataset.clean has not finished"
    assert facts_of(run, MICRO) is None
    run.step_runner.finished.add(MICRO.step)  # and a later one of the phase failed
    assert facts_of(run, MICRO).best_step == 420


def test_a_figure_that_cannot_be_drawn_does_not_cost_the_report(tmp_path):
    def draw(run):
        raise ValueError("no such colour")

    def write(run):
        durable.write_text(run.paths.reports / "training_report.md", "# Report")
        return StepResult(Reported())

    def steps(wanted):
        works = {FIGURES: draw, REPORTED: write}
        return [replace(step, work=works[step.key]) for step in documentation.steps(wanted)]

    run = real_run(tmp_path)
    phases = (*run.phases[:-1], Phase("documentation", documentation.documentation, steps))
    run = replace(run, phases=phases)
    run.run_phase(phases[-1])  # none of what it needs has finished
    assert (run.paths.reports / "training_report.md").exists()
    record = run.phase_runner.record("documentation")
    assert record.status == "failed" and record.cause == "no such colour"


def test_a_run_that_git_allows_no_branch_for_says_once_where_its_milestones_are(tmp_path, monkeypatch):
    for name, value in {"GIT_CONFIG_NOSYSTEM": "1", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    checkout = tmp_path / "checkout"
    for words in (["init", "-q", str(checkout)], ["-C", str(checkout), "commit", "-qm", "The code", "--allow-empty"]):
        subprocess.run(["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *words], check=True)
    run = real_run(tmp_path, "--set", "milestones=true", "--run", "a..b")
    run = replace(run, milestones=Milestones(checkout, tmp_path, "a..b", run.paths.state))
    finish(run, PLANNED)
    run.journal.display = display = RecordingDisplay()
    for title in ("Data ready", "Model trained"):
        run.milestone("training", title, "", [])
    run.run_phase(documentation.PHASE)
    problem = f'milestones are on the branch "{run.milestones.branch}": git allows no branch called "autopilot/a..b"'
    assert [level for level, message in display.notes if message == problem] == ["warning"]
    assert f"M{problem[1:]}." in (run.paths.reports / "training_report.md").read_text()


def test_a_whole_report_is_written_of_a_run_that_has_only_a_plan(tmp_path):
    run = real_run(tmp_path)
    finish(run, PLANNED)
    run.run_phase(documentation.PHASE)
    assert run.phase_runner.record("documentation").status == "done"
    report = (run.paths.reports / "training_report.md").read_text()
    assert "could not be written" not in report and "No model was trained" in report
