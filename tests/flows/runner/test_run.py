"""A whole run, put together from what was asked for: early starts, one phase alone, milestones, a change of code."""

import subprocess
import sys

import pytest

from flows.context.paths import CHECKOUT
from flows.ledger.facts import Key
from flows.runner.milestones import Milestone
from flows.runner.run import StepsWanted, by_need
from nanogpt import durable
from nanogpt.faults import UserError
from tests.flows.small_flow import ALL, FETCH, TRAIN, Flow, Made, statuses

pytestmark = pytest.mark.fast
MEASURE = Key("configuration.measure", Made)


@pytest.fixture
def flow(tmp_path) -> Flow:
    return Flow(tmp_path)


def test_putting_a_run_together_writes_nothing(flow):
    flow.run()
    assert list(flow.workspace.iterdir()) == []


def test_every_phase_is_done_and_then_kept(flow):
    assert set(statuses(flow.session().phase_runner).values()) <= {"done", "kept"}
    assert sorted(flow.worked) == sorted(ALL) and flow.ended == "finished"
    run = flow.session()
    assert flow.worked == [] and set(statuses(run.phase_runner).values()) == {"kept"}


def test_a_step_of_a_later_phase_that_starts_early_is_done_once(flow):
    run = flow.session()
    assert flow.worked.count("dataset.fetch") == 1
    assert run.phase_runner.record("dataset").status == "done"


@pytest.mark.parametrize("where", ["work", "settings"])
def test_a_step_that_fails_early_costs_its_own_phase_and_no_other(flow, where):
    error = OSError("no network")
    (flow.failing if where == "work" else flow.settings)["dataset.fetch"] = error
    run = flow.session()
    assert flow.worked.count("dataset.fetch") == (2 if where == "work" else 0)
    assert run.phase_runner.record("implementation").status == "kept"
    assert run.phase_runner.record("dataset").cause == "no network"
    assert run.phase_runner.record("documentation").status == "done"


def test_an_early_start_is_left_out_where_one_phase_alone_is_asked_for(flow):
    flow.session("--only", "implementation")
    assert flow.worked == []


# One phase alone


def test_only_one_phase_runs_on_what_the_others_left(flow):
    flow.session()
    flow.settings["training.micro"] = {"max_iters": 7}
    run = flow.session("--only", "training")
    assert flow.worked == ["training.micro"]
    assert {name for name, status in statuses(run.phase_runner).items() if status != "skipped"} == {"training"}


def test_only_a_phase_that_needs_a_later_phases_step_finds_it(flow):
    """The text of phase 4 is fetched early, for phase 3 measures with its alphabet."""
    phases = flow.phases(configuration=flow.step(MEASURE, needs=("dataset.fetch",)))
    flow.session()
    run = flow.run("--only", "configuration", phases=phases)
    assert [step.name for step in by_need(run.steps())].index("dataset.fetch") < [
        step.name for step in by_need(run.steps())
    ].index("configuration.measure")
    run.session.begin()
    flow.do_phases(run)
    assert run.phase_runner.record("configuration").status == "done"


@pytest.mark.parametrize("error", [None, UserError("micro.yaml: cannot be read"), OSError("gone")])
def test_only_a_phase_whose_inputs_are_missing_is_blocked(flow, error):
    if error:
        flow.session()
        flow.settings["dataset.fetch"] = error  # what its settings are read from is not there
    run = flow.session("--only", "training")
    assert run.phase_runner.record("training").status == "blocked" and flow.worked == []


# What a run knows


def test_a_damaged_plan_file_does_not_stop_the_run_that_would_mend_it(flow):
    durable.write_text(flow.workspace / "state/default/plan.json", "{half")
    assert flow.session().models() == ["micro"] and flow.ended == "finished"


def test_a_phase_knows_the_models_and_all_earlier_steps(flow):
    seen: list[StepsWanted] = []
    phases = flow.phases()
    listed = phases[-1].steps

    def steps(wanted: StepsWanted):
        seen.append(wanted)
        return listed(wanted)

    object.__setattr__(phases[-1], "steps", steps)
    flow.run("--set", "ladder=[micro, tiny_model]", "--set", "tests=false", phases=phases).steps()
    assert (list(seen[-1].models), seen[-1].with_tests) == (["micro", "tiny_model"], False)
    assert [step.name for step in seen[-1].before] == [name for name in ALL if not name.startswith("documentation")]


def test_a_milestone_that_a_kill_came_before_is_made_by_the_next_session(flow, monkeypatch):
    flow.session()
    run = flow.run("--set", "milestones=true")
    made: list[str] = []
    monkeypatch.setattr(run.milestones, "commit", lambda title, *_: made.append(" ".join(title.split())) or "0" * 40)
    monkeypatch.setattr(run.milestones, "commits", lambda: [Milestone("", title, "") for title in made])
    run.session.begin()
    run.do(FETCH)
    for _ in range(2):
        run.do(TRAIN)
        run.milestone("training", "micro:  validation loss 1.8", "", [])
    assert [record.state for record in run.step_runner.records("training")] == ["kept"]
    assert made == ["micro: validation loss 1.8"]


def test_a_ninth_phase_is_one_file_and_one_line_of_full_run(tmp_path):
    """Copied into another checkout, where a person adds it."""
    for folder in ("flows", "nanogpt", "configs"):
        subprocess.run(["cp", "-r", str(CHECKOUT / folder), str(tmp_path)], check=True)
    (tmp_path / "flows/phases/farewell.py").write_text(NINTH)
    full_run = tmp_path / "flows/full_run.py"
    text = full_run.read_text()
    full_run.write_text(
        text.replace("    documentation.PHASE,", "    documentation.PHASE,\n    farewell.PHASE,").replace(
            "    evaluation,\n", "    evaluation,\n    farewell,\n"
        )
    )
    workspace = tmp_path / "workspace"
    command = [sys.executable, "-m", "flows.full_run", "--no-bootstrap", "--no-ui", "--workspace", str(workspace)]
    done = subprocess.run([*command, "--only", "farewell"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)})  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (workspace / "data/default/goodbye.txt").read_text() == "Goodbye"
    marker = durable.read_json(workspace / "state/default/markers/farewell.say.json")
    assert marker["facts"] == {"words": "Goodbye"}


NINTH = '''"""Phase 9: says goodbye."""

from dataclasses import dataclass

from flows.ledger.facts import Key
from flows.ledger.steps import StepResult
from flows.runner.run import Phase, Run, Step


@dataclass(frozen=True)
class Farewell:
    words: str


SAID = Key("farewell.say", Farewell)


def say(run: Run) -> StepResult[Farewell]:
    file = run.paths.data / "goodbye.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("Goodbye")
    return StepResult(Farewell("Goodbye"), [file])


STEP = Step(key=SAID, title="Say goodbye", work=say, code=("flows/phases/farewell.py",))
PHASE = Phase("farewell", lambda run: run.do(SAID), lambda wanted: [STEP])
'''
