"""`--status` and `--plan`: what is done, what would run, and why - read in a moment, changing nothing."""

import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from flows.cli import status
from flows.cli.command_line import parse
from flows.context.paths import CHECKOUT
from flows.full_run import PHASES
from flows.ledger.facts import EVALUATED, FETCHED, PLANNED, REPORTED, LeftOut, Planned
from flows.ledger.steps import StepResult
from flows.runner.assembly import assemble
from flows.runner.run import AnyStep, Run
from flows.runner.sessions import SessionRecord
from nanogpt import durable, machine
from nanogpt.config import save_config
from nanogpt.living import born
from nanogpt.records import from_json, to_json
from tests.flows.report import report_facts

MODELS = ("micro", "tiny_model")
SHORT = ["--set", "ladder=[micro, tiny_model]", "--budget", "10m", "--data", "embedded"]


class Workspace:
    """A workspace in which some steps are finished: markers and outputs as the run's own ledger writes them."""

    def __init__(self, folder: Path):
        self.folder = folder / "workspace"
        self.folder.mkdir(parents=True)

    def arguments(self, *more: str) -> list[str]:
        return ["--workspace", str(self.folder), *SHORT, *more]

    def run(self, *more: str) -> Run:
        return assemble(parse(self.arguments(*more), PHASES), PHASES)

    def finish(self, last: str) -> None:
        """Every step up to and with `last`; the text is fetched before its phase."""
        run, facts = self.run(), self.facts()
        steps = run.steps()
        fetch = next(step for step in steps if step.key == FETCHED)
        for step in [fetch, *steps]:
            run.ledger.start(step, step.settings(run), "never run")
            run.ledger.finish(step, self._result(run, step, facts[step.name]), seconds=12.0)
            if step.name == last:
                return

    def facts(self) -> dict:
        """What each step leaves: of the two models of SHORT."""
        facts = report_facts.complete_facts(self.folder.parent / "models")
        found = {name.replace("tiny", "tiny_model"): value for name, value in facts.steps.items()}
        ladder = [replace(report_facts.PLANNED_MODEL, name=name, seconds=100.0, memory_bytes=3 << 30)
                  for name in MODELS]  # fmt: skip
        left_out = [LeftOut("small_model", "needs 9.0 GiB of 4.0 GiB")]
        return found | {PLANNED.step: to_json(Planned(600.0, ladder, left_out, []))}

    def _result(self, run: Run, step: AnyStep, facts: dict) -> StepResult:
        output = run.paths.data / f"{step.name}.bin"
        durable.write_text(output, step.name)
        if step.key == PLANNED:
            for candidate in run.options.candidates:
                save_config(candidate, run.paths.config(candidate.name))
        return StepResult(from_json(step.key.kind, facts), [output])

    def picture(self) -> dict:
        """Every file and folder with its bytes and times."""
        return {
            path.relative_to(self.folder): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
            for path in [self.folder, *self.folder.rglob("*")]
        }

    def decisions(self, *more: str) -> dict[str, tuple[str, str]]:
        return {row.step.name: (row.state, row.reason) for row in status.decisions(self.run(*more))}


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path)


LOOK = """
import json, sys
from flows import full_run
codes = [full_run.main(arguments) for arguments in json.loads(sys.argv[1])]
heavy = {"torch", "prefect", "transformers"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else max(codes))
"""


@pytest.mark.slow
def test_looking_changes_nothing_and_imports_nothing_heavy(tmp_path):
    """At any stage of a run; one process looks at all of them."""
    stages = (None, "dataset.clean", "configuration.plan", "training.micro", "documentation.report")
    workspaces = [Workspace(tmp_path / str(last)) for last in stages]
    for workspace, last in zip(workspaces, stages, strict=True):
        if last:
            workspace.finish(last)
    before = [workspace.picture() for workspace in workspaces]
    looks = [workspace.arguments(option) for workspace in workspaces for option in ("--status", "--plan")]
    looked = subprocess.run([sys.executable, "-c", LOOK, json.dumps(looks)], cwd=CHECKOUT, timeout=120,
                            capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"})  # fmt: skip
    assert (looked.returncode, looked.stderr) == (0, "")
    tables = looked.stdout.split("run default")[1:]
    assert len(tables) == len(looks)
    assert all("micro" in table and "report" in table for table in tables)
    assert [workspace.picture() for workspace in workspaces] == before


def test_before_the_first_start_every_step_is_to_do(workspace, capsys):
    assert {state for state, _ in workspace.decisions().values()} <= {"run", "waits"}
    assert status.show(workspace.run()) == 0
    assert "never started" in capsys.readouterr().out


def test_a_half_done_run_keeps_what_is_done_and_says_what_waits(workspace):
    workspace.finish("training.micro")
    rows = workspace.decisions()
    assert rows["training.micro"][0] == "kept" and "inputs and outputs unchanged" in rows["training.micro"][1]
    assert rows["training.tiny_model"] == ("run", "never run")
    assert rows["documentation.report"][0] == "run"


def test_a_finished_run_keeps_everything(workspace):
    workspace.finish("documentation.report")
    assert {state for state, _ in workspace.decisions().values()} == {"kept"}


def test_a_run_whose_goal_was_missed_keeps_everything_too(workspace, monkeypatch):
    """As a start does, whose evaluation fails again with the same words."""
    facts = workspace.facts()
    best = facts[EVALUATED.step]["best"]
    facts[EVALUATED.step]["models"][best]["test"]["bits_per_byte"] = 6.0
    monkeypatch.setattr(workspace, "facts", lambda: facts)
    workspace.finish("documentation.report")
    assert {state for state, _ in workspace.decisions().values()} == {"kept"}
    run = workspace.run()
    assert "has not learned: 6.000 bits per byte" in str(run.step(REPORTED).settings(run)["troubles"])
    run.phase_runner.record("evaluation").status = "done"  # it has learned since: news for the report
    assert run.step(REPORTED).settings(run)["troubles"] == {}


def test_what_depends_on_a_step_that_runs_again_waits_for_it(workspace):
    workspace.finish("documentation.report")
    (workspace.run().paths.data / "dataset.clean.bin").unlink()
    rows = workspace.decisions()
    assert rows["dataset.fetch"][0] == "kept"
    assert rows["dataset.clean"] == ("run", "data/default/dataset.clean.bin is missing")
    assert rows["dataset.characters"] == ("waits", "for dataset.clean: kept if its output stays the same")


def test_a_changed_setting_is_named_where_it_counts_and_only_there(workspace):
    workspace.finish("documentation.report")
    rows = workspace.decisions("--set", "training.muon_learning_rate=3e-3")
    assert rows["configuration.plan"][0] == "run" and "muon_learning_rate" in rows["configuration.plan"][1]
    assert rows["configuration.measure"][0] == rows["dataset.clean"][0] == "kept"


def test_another_budget_is_another_plan_and_nothing_is_shown_of_the_old_one(workspace, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    workspace.finish("documentation.report")
    rows = workspace.decisions("--budget", "1h")
    assert rows["configuration.plan"][0] == "run" and "budget" in rows["configuration.plan"][1]
    assert rows["training.micro"] == ("waits", "for configuration.plan: kept if its output stays the same")
    assert rows["evaluation.models"][0] == rows["documentation.report"][0] == "waits"
    assert status.show_plan(workspace.run("--budget", "1h")) == 0
    printed = capsys.readouterr().out
    assert "The plan is to be made anew" in printed
    assert not re.search(r"(?<!\d)1 min 40 s", printed) and "small_model is left out" not in printed


def test_the_plan_for_another_text_goes_by_that_text(workspace, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    workspace.finish("documentation.report")
    other = tmp_path / "other.txt"
    other.write_text("abcdefghi\n" * 10_000)
    assert status.show_plan(workspace.run("--data", str(other))) == 0
    assert "for each of the 90,000 tokens to learn from" in " ".join(capsys.readouterr().out.split())


def test_what_needs_a_step_of_a_later_phase_waits_for_it_too(workspace):
    workspace.finish("documentation.report")
    (workspace.run().paths.data / "dataset.fetch.bin").unlink()
    rows = workspace.decisions()
    assert rows["dataset.fetch"][0] == "run"
    assert rows["configuration.measure"] == ("waits", "for dataset.fetch: kept if its output stays the same")


def test_redo_is_part_of_the_plan(workspace):
    workspace.finish("documentation.report")
    assert workspace.decisions("--redo", "training.micro")["training.micro"] == ("run", "asked for (--redo)")


def test_the_plan_shows_time_and_memory_and_what_is_left_out(workspace, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    workspace.finish("configuration.plan")
    assert status.show_plan(workspace.run()) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "training.tiny_model" in line)
    assert "1 min 40 s" in row and "3.0 GiB" in row
    assert "small_model is left out: needs 9.0 GiB of 4.0 GiB" in printed


def test_a_step_that_was_left_out_is_not_shown_as_done_and_its_moment_is_no_forecast(workspace, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    workspace.finish("documentation.report")
    run = workspace.run()
    step = next(step for step in run.steps() if step.name == "evaluation.study")
    run.ledger.start(step, step.settings(run), "never run")
    facts = from_json(step.key.kind, workspace.facts()[step.name])
    run.ledger.finish(step, StepResult(facts, left_out="the run is late"), seconds=0.078)
    assert status.show(workspace.run()) == 0
    assert re.search(r"study +│ left out +│ left out 20.*: the run is late", capsys.readouterr().out)
    assert status.show_plan(workspace.run("--redo", "evaluation.study")) == 0
    assert "78 ms" not in capsys.readouterr().out


def test_the_plan_for_an_assumed_speed_cuts_no_figure_on_a_narrow_terminal(workspace, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert status.show_plan(workspace.run("--plan", "--assume-speed", "30M:4096:400ms")) == 0
    assert "…" not in capsys.readouterr().out


def test_before_anything_is_measured_the_plan_predicts_memory_and_disk(workspace, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(machine, "memory_bytes", lambda: 12 * 2**30)
    assert status.show_plan(workspace.run("--set", "ladder=[micro, large_model]")) == 0
    printed = capsys.readouterr().out
    assert "Nothing is measured yet" in printed and "go to training" in printed
    rows = {line.split()[1]: line for line in printed.splitlines() if line.startswith(("│ micro ", "│ large_model "))}
    assert "0.81 M" in rows["micro"] and "MiB" in rows["micro"] and "does not fit" not in rows["micro"]
    assert "micro is left out" not in printed  # the embedded corpus is as large as tiny Shakespeare
    assert "large_model is left out: has 649 parameters for each of the" in printed
    assert "651.6 M" in rows["large_model"] and "does not fit into memory" in rows["large_model"]


def test_other_programs_words_are_shown_as_they_are(workspace, capsys, monkeypatch):
    """rich reads [brackets] as markup and fails on [/what looks like an end]."""
    monkeypatch.setenv("COLUMNS", "200")
    run = workspace.run()
    step = run.steps()[0]
    run.ledger.start(step, step.settings(run), "never run")
    run.ledger.fail(step, "cannot open [/mnt/data] [red]now[/red]")
    assert status.show(run) == 0 and status.show_plan(run) == 0
    assert capsys.readouterr().out.count("cannot open [/mnt/data] [red]now[/red]") == 2


def test_a_session_that_was_killed_is_not_shown_as_running(workspace, capsys):
    session = workspace.run().paths.state / "session.json"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = born(os.getpid())
    taken = os.getpid(), mine - 60  # another process has the dead one's number by now
    over = (taken, "interrupted"), ((ended.pid, 1.0), "interrupted")
    for (pid, birth), state in (((os.getpid(), mine), "running"), *over):
        record = SessionRecord("2026-11-20 23:40:02", 1, "running", pid, "python3", born=birth)
        durable.write_json(session, to_json(record))
        assert status.show(workspace.run()) == 0
        assert f"run default: {state}" in capsys.readouterr().out


def test_a_step_that_is_at_work_is_not_shown_as_interrupted(workspace, capsys):
    workspace.finish("dataset.bpe")
    run = workspace.run()
    step = next(step for step in run.steps() if step.name == "training.micro")
    run.ledger.start(step, step.settings(run), "never run")
    session, marker = run.paths.state / "session.json", run.paths.markers / "training.micro.json"
    durable.write_json(session, to_json(SessionRecord("2026-11-20 23:40:02", 1, "running", os.getpid(), "python3")))
    for later, shown in ((1, r"at work +│ since 20"), (-1, r"to do +│ interrupted at")):
        moment = session.stat().st_mtime + later
        os.utime(marker, (moment, moment))
        assert status.show(workspace.run()) == 0
        assert re.search(rf"micro +│ {shown}", capsys.readouterr().out)


@pytest.mark.parametrize("damage", ["", "{half", "[]", '"text"', "{}"])
def test_a_damaged_record_of_the_session_is_no_reason_to_fail(workspace, damage, capsys):
    durable.write_text(workspace.run().paths.state / "session.json", damage)
    assert status.show(workspace.run()) == 0
    assert "run default" in capsys.readouterr().out


@pytest.mark.slow
def test_a_look_at_a_run_under_way_does_not_disturb_it(workspace):
    holder = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from flows.cli.lock import exclusive
        from flows.context.paths import Paths
        with exclusive(Paths(Path({str(workspace.folder)!r}), "default"), "default"):
            print("held", flush=True)
            sys.stdin.read()
    """)
    process = subprocess.Popen([sys.executable, "-c", holder], cwd=CHECKOUT, text=True, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert process.stdout.readline() == "held\n"
        assert status.show(workspace.run("--status")) == 0
    finally:
        process.communicate("")
    assert process.returncode == 0
