"""A run: steps kept, done, failed and blocked; phases that go on without one another; one holder at a time."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from flows.cli import session
from flows.cli.lock import exclusive
from flows.context.budget_clock import Clock
from flows.context.options import CHECKOUT, PHASES, parse
from flows.display.plain import PlainDisplay
from flows.display.protocol import Opening
from flows.ledger.ledger import Outcome, Step
from flows.runner.milestones import Milestone
from flows.runner.run import Blocked, Run
from nanogpt import durable
from nanogpt.faults import UserError


class Flow:
    """A workspace and a few steps in it; each `session` is what a new start would see."""

    def __init__(self, folder: Path, monkeypatch):
        self.workspace = folder / "workspace"
        self.workspace.mkdir()
        self.worked: list[str] = []  # names of the steps that ran, in order
        self.failing: dict[str, BaseException] = {}
        self.settings: dict[str, dict] = {}
        self.fetch = self.step("dataset.fetch")
        self.device = self.step("environment.device")
        self.train = self.step("training.micro", needs=("dataset.fetch",))
        self.judge = self.step("evaluation.models", needs=("training.micro",))
        self.report = self.step("documentation.report")
        self.steps = [self.device, self.fetch, self.train, self.judge, self.report]
        monkeypatch.setattr("flows.phases.steps_of", lambda models, tests=True: self.steps)

    def step(self, name: str, needs: tuple[str, ...] = ()) -> Step:
        def work(run: Run) -> Outcome:
            self.worked.append(name)
            if name in self.failing:
                raise self.failing[name]
            output = run.paths.data / f"{name}.bin"
            durable.write_text(output, name)
            return Outcome([output], {"made_by": name})

        return Step(name, name.partition(".")[2].capitalize(), work, lambda run: self.settings.get(name, {}), needs)

    def run(self, *arguments: str) -> Run:
        run = Run(parse(["--workspace", str(self.workspace), "--budget", "10m", "--set", "milestones=false",
                         "--data", "embedded", *arguments]))  # fmt: skip
        run.display = PlainDisplay()
        return run

    def session(self, *arguments: str) -> Run:
        """All of the flow, once."""
        self.worked.clear()
        run = self.run(*arguments)
        run.begin()
        run.display.flow(lambda: self.phases(run), Opening("default"))
        run.end(stopped=False)
        return run

    def phases(self, run: Run) -> None:
        run.phase("environment", lambda run: run.do(self.device))
        text = run.ahead(self.fetch)
        run.phase("implementation", lambda run: None)
        run.phase("configuration", lambda run: None, text)
        run.phase("dataset", lambda run: run.do(self.fetch))
        run.phase("training", lambda run: run.do(self.train))
        run.phase("evaluation", lambda run: run.do(self.judge))
        run.phase("deployment", lambda run: None)
        run.phase("documentation", lambda run: run.do(self.report))

    @property
    def ended(self) -> str:
        return durable.read_json(self.workspace / "state/default/session.json")["state"]

    @property
    def log(self) -> str:
        return (self.workspace / "logs/default/automation_log.txt").read_text()


ALL = ["environment.device", "dataset.fetch", "training.micro", "evaluation.models", "documentation.report"]


@pytest.fixture
def flow(tmp_path, monkeypatch) -> Flow:
    return Flow(tmp_path, monkeypatch)


def statuses(run: Run) -> dict[str, str]:
    return {name: record.status for name, record in zip(PHASES, run.phases, strict=True)}


def states(run: Run) -> dict[str, str]:
    return {step["name"]: step["state"] for record in run.phases for step in record.steps}


# Steps and phases -------------------------------------------------------------------------------------------------


def test_a_first_session_does_every_step_once_and_tells_of_it(flow):
    run = flow.session()
    assert flow.worked == ALL
    assert states(run) == dict.fromkeys(ALL, "done")
    assert run.facts("training.micro") == {"made_by": "training.micro"}
    assert flow.ended == "finished"
    for name in ALL:
        assert f"{name}: started (never run)" in flow.log and f"{name}: finished in" in flow.log


def test_a_second_session_keeps_everything_and_says_why(flow):
    flow.session()
    run = flow.session()
    assert flow.worked == []
    assert statuses(run) == dict.fromkeys(PHASES, "kept") and states(run) == dict.fromkeys(ALL, "kept")
    assert all("inputs and outputs unchanged" in step["reason"] for record in run.phases for step in record.steps)


def test_a_changed_setting_runs_its_step_again_and_only_that_when_the_output_is_the_same(flow):
    flow.session()
    flow.settings["dataset.fetch"] = {"source": "mine"}
    run = flow.session()
    assert flow.worked == ["dataset.fetch"]
    assert statuses(run)["dataset"] == "done" and statuses(run)["training"] == "kept"


def test_redo_runs_a_step_once_even_when_it_is_done_ahead(flow, monkeypatch):
    flow.session()
    monkeypatch.setattr("flows.context.options._check_names", lambda given, rungs: None)
    flow.session("--redo", "dataset.fetch")
    assert flow.worked == ["dataset.fetch"]


def test_a_failed_phase_blocks_what_needs_it_and_nothing_else(flow):
    flow.failing["training.micro"] = RuntimeError("no remedy is left")
    run = flow.session()
    assert flow.worked == ["environment.device", "dataset.fetch", "training.micro", "documentation.report"]
    assert statuses(run)["training"] == "failed" and statuses(run)["evaluation"] == "blocked"
    assert statuses(run)["dataset"] == statuses(run)["documentation"] == "done"
    training, evaluation = run.phases[4], run.phases[5]
    assert training.cause == "no remedy is left" and evaluation.cause == "training.micro has not finished"
    assert training.next_command == evaluation.next_command == run.options.command
    assert flow.ended == "failed"


def test_after_a_failure_the_next_session_does_what_is_left(flow):
    flow.failing["training.micro"] = RuntimeError("no remedy is left")
    flow.session()
    del flow.failing["training.micro"]
    run = flow.session()
    assert flow.worked == ["training.micro", "evaluation.models"]
    assert flow.ended == "finished" and statuses(run)["dataset"] == "kept"


def test_a_failure_without_words_is_told_by_its_name(flow):
    flow.failing["environment.device"] = MemoryError()
    assert flow.session().phases[0].cause == "MemoryError"


@pytest.mark.parametrize("error", [UserError("data.source: is empty"), KeyboardInterrupt(), SystemExit(1)])
def test_a_mistake_or_a_stop_ends_the_run_and_is_no_success(flow, error):
    flow.failing["dataset.fetch"] = error
    run = flow.run()
    run.begin()
    with pytest.raises(type(error)):
        run.display.flow(lambda: flow.phases(run), Opening("default"))
    run.end(stopped=isinstance(error, KeyboardInterrupt))
    assert "training.micro" not in flow.worked
    assert flow.ended == ("stopped" if isinstance(error, KeyboardInterrupt) else "failed")
    del flow.failing["dataset.fetch"]
    again = flow.session()
    assert "environment.device" not in flow.worked and flow.ended == "finished"
    assert again.sessions == 2


def test_steps_beside_one_another_run_at_once_and_each_is_settled(flow):
    both = threading.Barrier(2, timeout=10)

    def meet(run):
        both.wait()
        return Outcome(facts={"met": True})

    first, second = (Step(f"environment.{name}", name, meet) for name in ("first", "second"))

    def together(run):
        join = run.beside(first)
        run.do(second)
        join()

    run = flow.run()
    run.begin()
    run.phase("environment", together)
    assert states(run) == {"environment.first": "done", "environment.second": "done"}
    assert run.facts("environment.first") == {"met": True}


def test_facts_of_an_unfinished_step_are_not_to_be_had(flow):
    flow.session()
    with pytest.raises(Blocked, match=r"training\.micro has not finished"):
        flow.run().facts("training.micro")  # finished once, not looked at in this session


# Ahead of its phase -----------------------------------------------------------------------------------------------


def test_a_step_done_ahead_is_done_once_and_counts_as_done_in_its_own_phase(flow):
    run = flow.session()
    assert flow.worked.count("dataset.fetch") == 1
    assert states(run)["dataset.fetch"] == "done" and statuses(run)["dataset"] == "done"


def test_a_step_that_fails_ahead_is_tried_again_and_told_in_its_own_phase(flow):
    flow.failing["dataset.fetch"] = OSError("no network")
    run = flow.session()
    assert flow.worked.count("dataset.fetch") == 2
    assert statuses(run)["configuration"] == "kept" and statuses(run)["dataset"] == "failed"
    assert run.phases[3].cause == "no network"


def test_settings_that_cannot_be_read_ahead_are_told_in_the_steps_own_phase(flow):
    def unreadable(run):
        raise OSError("text.txt is gone")

    flow.fetch = Step("dataset.fetch", "Fetch", flow.fetch.work, unreadable)
    run = flow.session()
    assert statuses(run)["dataset"] == "failed" and run.phases[3].cause == "text.txt is gone"
    assert statuses(run)["documentation"] == "done"


# One phase alone --------------------------------------------------------------------------------------------------


def test_only_one_phase_runs_on_what_the_others_left(flow):
    flow.session()
    flow.settings["training.micro"] = {"max_iters": 7}
    run = flow.session("--only", "training")
    assert flow.worked == ["training.micro"]
    assert {name for name, status in statuses(run).items() if status != "skipped"} == {"training"}


def test_only_a_phase_that_needs_a_later_phases_step_finds_it(flow):
    """The text of phase 4 is fetched ahead, for phase 3 measures with its alphabet."""
    measure = flow.step("configuration.measure", needs=("dataset.fetch",))
    flow.steps.insert(0, measure)
    flow.session()
    run = flow.run("--only", "configuration")
    run.begin()
    run.phase("configuration", lambda run: run.do(measure))
    assert statuses(run)["configuration"] == "done"


def test_only_a_phase_whose_inputs_are_missing_is_blocked(flow):
    run = flow.session("--only", "training")
    assert statuses(run)["training"] == "blocked" and flow.worked == []


# Sessions, clock, --fresh -----------------------------------------------------------------------------------------


def test_the_clock_goes_on_over_killed_sessions_and_begins_anew_after_a_success(tmp_path, monkeypatch):
    file, now = tmp_path / "clock.json", 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def start(budget: float = 600.0) -> Clock:
        clock = Clock(file, budget)
        clock.go_on()
        return clock

    clock = start()
    now += 40
    clock.save()  # and killed
    now += 500  # nobody's time
    clock = start()
    now += 10
    assert (clock.spent, clock.left) == (50, 550)
    clock.save()
    assert start(budget=3600.0).spent == 0  # another budget is another plan
    clock.save(finished=True)
    assert start().spent == 0


@pytest.mark.parametrize("damage", ["", "{half", "[]", "{}", '{"budget_seconds": 600, "finished": false}', None])
def test_a_damaged_clock_is_set_by_what_the_steps_took(flow, damage):
    run = flow.run()
    run.begin()
    step = Step("environment.device", "Look", lambda run: None)
    run.ledger.start(step, {}, "never run")
    run.ledger.finish(step, Outcome(), seconds=77.0)  # and killed
    clock = flow.workspace / "state/default/clock.json"
    clock.unlink() if damage is None else clock.write_text(damage)
    run = flow.run()
    run.begin()
    assert run.sessions == 2 and 77 <= run.clock.spent < 100
    [remedy] = [row for row in run.remedies if row["symptom"] != "interrupted"]
    assert "state/default/clock.json: it " in remedy["evidence"] and remedy in run.all_remedies()
    flow.run().begin()
    told = [row["symptom"] for row in flow.run().all_remedies()]
    assert told.count("corrupt_file") == 1 and "interrupted" in told, "once is enough"


def test_a_session_that_never_ended_is_a_row_with_what_is_done_again(flow):
    run = flow.run()
    run.begin()
    step = next(step for step in run.steps() if step.name == "training.micro")
    run.ledger.start(step, {}, "never run")
    folder = run.paths.checkpoints / "micro"
    (folder / "checkpoints/step-00000060").mkdir(parents=True)
    durable.write_json(folder / "heartbeat", {"step": 80, "seconds": 8.0})  # and killed
    run = flow.run()
    run.begin()
    [row] = run.remedies
    assert (row["symptom"], row["step"], row["steps_lost"], row["cost_seconds"]) == (
        "interrupted", "training.micro", 20, 2.0)  # fmt: skip
    run.end(stopped=True)
    run = flow.run()
    run.begin()
    assert run.remedies == [], "what was stopped had not been killed"


def test_one_flipped_bit_of_a_clock_is_noticed(flow):
    flow.run().begin()
    clock = flow.workspace / "state/default/clock.json"
    clock.write_text(clock.read_text().replace('"finished": false', '"finished":  true'))
    run = flow.run()
    run.begin()
    assert run.sessions == 2 and "sha256 differs" in of_files(run.remedies)[0]["evidence"]


@pytest.mark.parametrize("name", ["session.json", "remedies.json", "clock.json", "holder.json", "lock"])
@pytest.mark.parametrize("damage", ["empty", "zeroed", "a folder", "a dangling link"])
def test_whatever_note_is_damaged_a_session_begins(flow, name, damage):
    flow.session()
    file = flow.workspace / "state/default" / name
    if file.exists():
        file.unlink()
    if damage == "a folder":
        (file / "within").mkdir(parents=True)
    elif damage == "a dangling link":
        file.symlink_to("nothing")
    else:
        file.write_bytes(b"" if damage == "empty" else bytes(100))
    run = flow.run()
    with exclusive(run):
        run.begin()
        run.end(stopped=False)
    told = [row["evidence"] for row in of_files(run.remedies)]
    assert [name in evidence for evidence in told] == ([] if name in ("holder.json", "lock") else [True])
    again = flow.run()
    with exclusive(again):
        again.begin()
    assert of_files(again.remedies) == []


def of_files(remedies: list[dict]) -> list[dict]:
    return [row for row in remedies if row["symptom"] == "corrupt_file"]


def test_sessions_are_counted_from_the_first_moment_until_the_run_is_done(flow):
    for number in (1, 2, 3):  # each killed as soon as it has begun
        run = flow.run()
        run.begin()
        assert run.sessions == number
    started = run.started
    run = flow.session()
    assert (run.sessions, run.started) == (4, started)
    assert flow.session().sessions == 1  # a new run on what is there


def test_fresh_sets_everything_aside_and_loses_nothing(flow):
    flow.session()
    download = flow.workspace / "data/downloads/play.txt"
    durable.write_text(download, "To be")
    before = {path.read_bytes() for path in flow.workspace.rglob("*") if path.is_file()}
    run = flow.session("--fresh")
    assert flow.worked == ALL and run.sessions == 1
    assert download.read_text() == "To be"
    assert before <= {path.read_bytes() for path in flow.workspace.rglob("*") if path.is_file()}
    assert list(flow.workspace.glob("data/default.*/training.micro.bin"))


def test_one_phase_alone_does_not_wind_up_the_clock_of_an_unfinished_run(flow):
    flow.failing["training.micro"] = RuntimeError("no remedy is left")
    flow.session()
    flow.session("--only", "documentation")
    assert durable.read_json(flow.workspace / "state/default/clock.json")["finished"] is False
    flow.failing.clear()
    flow.session()
    assert durable.read_json(flow.workspace / "state/default/clock.json")["finished"] is True


def test_a_damaged_plan_file_does_not_stop_the_run_that_would_mend_it(flow):
    durable.write_text(flow.workspace / "state/default/plan.json", "{half")
    assert flow.session().rung_names() == [rung.name for rung in flow.run().options.rungs]
    assert flow.ended == "finished"


def test_notes_of_a_session_never_end_it(flow, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device", str(path))

    run = flow.run()
    run.begin()
    monkeypatch.setattr("flows.runner.run.durable.write_json", full)
    run.phase("implementation", lambda run: None)
    run.end(stopped=False)


# What a run says of itself ----------------------------------------------------------------------------------------


def test_a_project_that_is_not_installed_and_a_machine_without_git_are_no_reason_to_fail(flow, monkeypatch):
    from importlib import metadata

    def version(name):
        if name == "nanogpt-autopilot":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setitem(sys.modules, "git", None)  # import git raises ImportError
    run = flow.session()
    assert run.versions()["torch"] == "1.0" and "nanogpt-autopilot" not in run.versions()
    assert run.code_commit is None and flow.ended == "finished"


def test_a_milestone_that_a_kill_came_before_is_made_by_the_next_session(flow, monkeypatch):
    flow.session()
    run = flow.run("--set", "milestones=true")
    made: list[str] = []
    monkeypatch.setattr(run.milestones, "commit", lambda title, *_: made.append(" ".join(title.split())) or "0" * 40)
    monkeypatch.setattr(run.milestones, "commits", lambda: [Milestone("", title, "") for title in made])

    def train(run):
        run.do(flow.train)
        run.milestone("training", "micro:  validation loss 1.8", "", [])

    run.begin()
    run.phase("dataset", lambda run: run.do(flow.fetch))
    for _ in range(2):
        run.phase("training", train)
    assert run.phases[4].status == "kept"
    assert made == ["micro: validation loss 1.8"]


# One holder at a time ---------------------------------------------------------------------------------------------

HOLDER = """
import os, subprocess, sys
from flows.context.options import parse
from flows.cli.lock import exclusive
from flows.runner.run import Run
with exclusive(Run(parse(["--workspace", sys.argv[1]]))):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(child.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_second_start_is_told_who_holds_the_run_until_that_one_is_dead(flow):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(flow.workspace)], cwd=CHECKOUT, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    child = int(holder.stdout.readline())
    try:
        told = rf"'default' is already going on: process {holder.pid}, started"
        with pytest.raises(UserError, match=told), exclusive(flow.run()):
            pytest.fail("two held it")
        with exclusive(flow.run("--run", "another")):
            pass  # of another name
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with exclusive(flow.run()):  # though its child lives on
            os.kill(child, 0)
            held_by = durable.read_json(flow.workspace / "state/default/holder.json")["pid"]
        assert held_by == os.getpid()
    finally:
        holder.kill()
        os.kill(child, signal.SIGKILL)
        holder.communicate()


def test_the_lock_is_free_again_after_a_failure(flow):
    for _ in range(2):
        with pytest.raises(RuntimeError), exclusive(flow.run()):
            raise RuntimeError


# Around it, the session -------------------------------------------------------------------------------------------


def start(flow: Flow, *arguments: str, work=None) -> int:
    return session.main(["--workspace", str(flow.workspace), "--data", "embedded", "--no-ui", *arguments],
                        work or flow.phases)  # fmt: skip


def test_a_mistake_told_after_training_costs_its_phase_and_not_the_report(flow, capsys):
    flow.failing["evaluation.models"] = UserError("checkpoints/default/micro/config.yaml: cannot be read")
    assert start(flow) == 1
    assert "6 Evaluation failed: checkpoints/default/micro/config.yaml: cannot be read" in capsys.readouterr().out
    assert "documentation.report" in flow.worked


def test_the_exit_code_tells_how_it_went(flow, capsys):
    flow.failing["training.micro"] = RuntimeError("no remedy is left")
    assert start(flow) == 1
    assert "5 Training failed: no remedy is left" in capsys.readouterr().out
    flow.failing["training.micro"] = KeyboardInterrupt()
    assert start(flow) == 130
    assert "go on with:\n  python3 -m flows.full_run" in capsys.readouterr().out
    flow.failing["training.micro"] = UserError("model.n_embd: is odd")
    assert start(flow) == 2
    assert capsys.readouterr().err == "error: model.n_embd: is odd\n"
    flow.failing.clear()
    assert start(flow) == 0
    assert flow.ended == "finished"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_as_ctrl_c_does(flow, number):
    before = signal.getsignal(number)
    assert start(flow, "--on-hangup", "save", work=lambda run: os.kill(os.getpid(), number)) == 130
    assert flow.ended == "stopped"
    assert signal.getsignal(number) is before


def test_nohup_is_respected(flow):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert start(flow, work=lambda run: os.kill(os.getpid(), signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_while_the_server_starts_is_a_stop_like_any_other(flow, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.display.prefect_server.connect", interrupted)
    arguments = ["--workspace", str(flow.workspace), "--data", "embedded"]
    assert session.main(arguments, flow.phases) == 130
    assert "go on with:\n  python3 -m flows.full_run" in capsys.readouterr().out
    assert flow.ended == "stopped" and flow.worked == []


def test_a_workspace_that_cannot_be_written_later_is_told_in_one_line(flow, monkeypatch, capsys):
    def full(run):
        raise OSError(28, "No space left on device", "state/default/markers")

    monkeypatch.setattr(Run, "begin", full)
    assert start(flow) == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device: 'state/default/markers'\n"


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_reads_its_output_any_more(flow):
    script = textwrap.dedent("""
        import sys
        from flows import session
        from flows.context.options import PHASES

        def phases(run):
            for name in PHASES:
                run.phase(name, lambda run: sys.stdin.readline() and run.tell("told"))

        sys.exit(session.main(sys.argv[1:], phases))
    """)
    arguments = ["--workspace", str(flow.workspace), "--data", "embedded", "--no-ui"]
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=CHECKOUT, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert "1 Environment" in process.stdout.readline()
    process.stdout.close()
    _, complaints = process.communicate("\n" * len(PHASES), timeout=60)
    assert (process.returncode, complaints) == (0, "")
    assert flow.ended == "finished" and flow.log.count("told") == len(PHASES)
