"""Whether a run is late: by what its plan still wants, as slow as the machine has proved since it was made."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.full_run import PHASES
from flows.ledger.facts import PLANNED, Planned, PlannedPhase, Trained, trained
from flows.runner.run import Run
from flows.runner.step_runner import StepRecord
from tests.flows.parts import assembled, finish, outcome, plan

pytestmark = pytest.mark.fast
SECONDS = {"training": 400.0, "evaluation": 40.0, "deployment": 45.0, "documentation": 5.0}
BUDGET = 600.0


def run_in(folder: Path, patch: pytest.MonkeyPatch, left: float, *arguments: str, phase: str = "evaluation",
           slowness: float | None = None, taken: float = 0.0) -> Run:  # fmt: skip
    """A run with so many seconds left, in a phase whose steps have `taken` some; the training before it was slow."""
    run = assembled(folder, PHASES, None, "--budget", "10m", "--set", "ladder=[micro]", *arguments)
    [model] = plan("micro", seconds=400.0).ladder
    rows = [PlannedPhase(number, phase.name.capitalize(), SECONDS.get(phase.name, 1.0))
            for number, phase in enumerate(PHASES, 1)]  # fmt: skip
    finish(run, PLANNED, Planned(BUDGET, [model], [], rows))
    steps = {phase: [StepRecord(f"{phase}.some", "", "done", "", taken)]}
    if slowness is not None:
        of_run = {"folder": "", "predicted_seconds": 400.0, "expected_bits_per_byte": 2.0, "remedies": []}
        finish(run, trained("micro"), Trained(**vars(outcome(seconds=400.0 * slowness)), **of_run))
        steps["training"] = [StepRecord("training.micro", "", "done", "", 400.0 * slowness)]
    patch.setattr(run.step_runner, "records", lambda phase: steps.get(phase, []))
    run.phase_runner.record(phase).status = "running"
    run.clock.take_over(BUDGET - left)
    return run


@pytest.fixture
def late_run(tmp_path, monkeypatch) -> Callable[..., Run]:
    return partial(run_in, tmp_path, monkeypatch)


@pytest.mark.parametrize("left, slowness, taken, late", [
    (100.0, None, 0.0, False), (80.0, None, 0.0, True),  # 90 s are planned
    (100.0, 1.0, 0.0, False), (140.0, 2.0, 0.0, True), (160.0, 2.0, 0.0, False),  # 150: the clock ends 30 of them
    (80.0, 0.5, 0.0, True),  # a quick training promises nothing
    (70.0, None, 30.0, False), (50.0, None, 30.0, True),  # 10 s of this phase, 50 s of the others
    (51.0, None, 90.0, False), (49.0, None, 90.0, True),  # all of it is gone, and more
    (-5.0, None, 90.0, True),
])  # fmt: skip
def test_it_is_late_where_what_remains_is_less_than_what_is_planned_as_slow_as_it_is(
    late_run, left, slowness, taken, late
):
    assert late_run(left, slowness=slowness, taken=taken).is_late is late


@pytest.mark.parametrize("slowness, taken, spare", [(None, 0.0, 70.0), (None, 39.0, 70.0), (2.0, 0.0, 50.0)])
def test_what_a_phase_may_take_leaves_those_after_it_their_time(late_run, slowness, taken, spare):
    """50 s are planned for those after it, of the 120 that are left; the table of smaller models takes 30 on any
    machine."""
    assert late_run(120.0, slowness=slowness, taken=taken).spare_seconds == pytest.approx(spare, abs=5.0)


def test_the_last_phase_has_none_after_it(late_run):
    assert late_run(4.0, phase="documentation").is_late
    assert not late_run(6.0, phase="documentation").is_late


def test_one_phase_that_a_person_asks_for_takes_what_it_takes(late_run):
    run = late_run(-1000.0, "--only", "evaluation", slowness=9.0)
    assert not run.is_late and run.spare_seconds == math.inf


def test_before_there_is_a_plan_nothing_is_late(tmp_path):
    run = assembled(tmp_path, PHASES, None, "--budget", "10m")
    run.clock.take_over(10 * BUDGET)
    assert not run.is_late


def test_a_training_of_an_earlier_session_says_nothing_of_the_machine_now(late_run, monkeypatch):
    run = late_run(100.0, slowness=9.0)
    kept = [StepRecord("training.micro", "", "kept", "", 0.0)]
    monkeypatch.setattr(run.step_runner, "records", lambda phase: kept if phase == "training" else [])
    assert not run.is_late


@settings(max_examples=20)
@given(st.floats(0.0, 600.0), st.floats(0.1, 20.0), st.floats(0.0, 100.0), st.floats(0.0, 300.0))
def test_with_more_time_left_it_is_never_late_that_was_not(tmp_path_factory, left, slowness, taken, more):
    with pytest.MonkeyPatch.context() as patch:
        run = run_in(tmp_path_factory.mktemp("run"), patch, left, slowness=slowness, taken=taken)
        before = run.is_late
        run.clock.take_over(BUDGET - left - more)
        assert before or not run.is_late
