"""How the budget is divided: by experience at first, then by what this machine really took."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.ledger.markers import FAILED, FINISHED, Marker, MarkerFiles
from flows.planning import budget_shares
from nanogpt.machine import processor_name
from nanogpt.records import to_json

pytestmark = pytest.mark.fast
TEXT = 1_115_394
NOWHERE = Path("/nowhere/state")
PHASES = {"environment", "implementation", "configuration", "dataset", "evaluation", "deployment", "documentation"}


def finish(state, run: str = "default", processor: str | None = None, bytes: int = TEXT, **seconds: float) -> None:
    """A run whose steps took `seconds`, by phase, each step an equal part."""
    facts = {"environment.system": {"processor": processor or processor_name()}, "dataset.fetch": {"bytes": bytes}}
    steps = {f"{phase}.{name}": total / len(budget_shares.STEPS[phase])
             for phase, total in seconds.items() for name in budget_shares.STEPS[phase]}  # fmt: skip
    for step in {**dict.fromkeys(facts, 0.0), **steps}:
        marker = Marker(
            step=step, title=step, state=FINISHED, reason="", started_at="", attempts=1, settings={}, inputs={},
            code={}, history=[], finished_at="2026-11-20 23:50:12+01:00", output_digest="0" * 64,
            facts=facts.get(step, {}), seconds=steps.get(step, 0.0),
        )  # fmt: skip
        MarkerFiles(state / run / "markers").write(marker)


def test_a_machine_that_has_run_nothing_is_planned_by_experience(tmp_path):
    assert budget_shares.expected(tmp_path, 300.0, TEXT) == budget_shares.by_experience(300.0, TEXT)
    assert set(budget_shares.by_experience(300.0, TEXT)) == PHASES


def test_what_the_last_run_took_here_is_expected_of_the_next(tmp_path):
    finish(tmp_path, evaluation=90.0, dataset=7.0)
    expected = budget_shares.expected(tmp_path, 300.0, TEXT)
    assert expected["evaluation"] == pytest.approx(90.0) and expected["dataset"] == pytest.approx(7.0)
    assert expected["deployment"] == budget_shares.by_experience(300.0, TEXT)["deployment"]  # has never been run


def test_another_machine_or_another_text_teaches_nothing(tmp_path):
    finish(tmp_path, processor="A processor of somebody else", deployment=99.0)
    assert budget_shares.expected(tmp_path, 300.0, TEXT) == budget_shares.by_experience(300.0, TEXT)
    finish(tmp_path, bytes=TEXT // 2, dataset=50.0, evaluation=60.0, deployment=70.0)
    expected, experience = budget_shares.expected(tmp_path, 300.0, TEXT), budget_shares.by_experience(300.0, TEXT)
    assert (expected["dataset"], expected["evaluation"]) == (experience["dataset"], experience["evaluation"])
    assert expected["deployment"] == pytest.approx(70.0)  # whatever the text


def test_a_phase_that_did_not_finish_teaches_nothing(tmp_path):
    finish(tmp_path, deployment=40.0)
    markers = MarkerFiles(tmp_path / "default/markers")
    markers.write(replace(markers.read("deployment.examples")[0], state=FAILED, failed_at="", cause="why not"))
    assert markers.read("deployment.examples")[0].state == FAILED
    assert budget_shares.expected(tmp_path, 300.0, TEXT) == budget_shares.by_experience(300.0, TEXT)


def test_a_step_that_a_short_run_left_out_takes_its_time_in_a_longer_one_and_none_in_another_short_one(tmp_path):
    finish(tmp_path, evaluation=50.0)  # ten for each step
    markers = MarkerFiles(tmp_path / "default/markers")

    def evaluation(budget: float) -> float:
        return budget_shares.expected(tmp_path, budget, TEXT)["evaluation"]

    assert evaluation(600.0) == pytest.approx(50.0) and evaluation(120.0) == pytest.approx(30.0)
    for step in ("evaluation.quality", "evaluation.study"):
        done = markers.read(step)[0]
        markers.write(replace(done, seconds=0.0, left_out="a budget of 2 min has no time for it"))
    assert evaluation(600.0) == budget_shares.by_experience(600.0, TEXT)["evaluation"]
    assert evaluation(120.0) == pytest.approx(30.0)


@given(st.floats(60, 1e6), st.dictionaries(st.sampled_from(sorted(PHASES)), st.floats(0.0, 1e6)))
def test_the_budget_is_never_given_away_twice(budget, phases):
    training = budget_shares.training_seconds(budget, phases)
    planned = training + sum(phases.values()) + budget_shares.START_SECONDS
    is_least = training == budget_shares.LEAST_SHARE * budget
    assert training >= budget_shares.LEAST_SHARE * budget
    assert is_least or planned == pytest.approx((1 - budget_shares.MARGIN) * budget)
    assert not is_least or planned >= (1 - budget_shares.MARGIN) * budget * (1 - 1e-9)


# How slow the machine has proved -----------------------------------------------------------------------------------


def steps_of(**phases: float) -> dict[str, float]:
    """Seconds of each step of some phases, by those of the whole phase."""
    return {f"{phase}.{name}": seconds / len(budget_shares.STEPS[phase])
            for phase, seconds in phases.items() for name in budget_shares.STEPS[phase]}  # fmt: skip


EXPECTED = {"environment": 3.0, "implementation": 2.0, "dataset": 3.0, "evaluation": 30.0}


@pytest.mark.parametrize("done, times", [
    ({}, 1.0),  # nothing is known
    (steps_of(environment=60.0), 1.0),  # it may have waited for torch to come from the disk
    (steps_of(implementation=2.9), 1.0), (steps_of(implementation=1.4), 1.0),  # no more than they vary
    (steps_of(implementation=6.0), 3.0), (steps_of(implementation=6.0, dataset=9.0), 3.0),
    (steps_of(implementation=0.5), 0.25),
    (steps_of(implementation=6.0, dataset=1.0), 1.0),  # 7 s of 5 s
    ({"dataset.clean": 99.0, "dataset.bpe": 99.0}, 1.0),  # not the whole phase
])  # fmt: skip
def test_how_slow_a_machine_is_shows_in_its_phases_of_pure_computation(done, times):
    assert budget_shares.slowness(done, EXPECTED) == pytest.approx(times)


@given(st.floats(0.01, 100.0))
def test_slowness_is_noticed_beyond_what_short_phases_vary_by(times):
    found = budget_shares.slowness(steps_of(implementation=2.0 * times, dataset=3.0 * times), EXPECTED)
    assert found == pytest.approx(1.0 if 1 / 1.5 < times < 1.5 else times, rel=1e-6) or abs(times - 1.5) < 1e-6


def test_a_slow_start_of_this_run_counts_for_all_phases_to_come(tmp_path):
    experience = budget_shares.by_experience(300.0, TEXT)
    done = steps_of(environment=9.0, implementation=3 * experience["implementation"])
    expected = budget_shares.expected(tmp_path, 300.0, TEXT, done=done)
    begun = {"environment", "implementation"}
    assert {name: expected[name] / experience[name] for name in PHASES} == pytest.approx(
        {name: 1.0 if name in begun else 3.0 for name in PHASES}
    )


def test_after_a_run_on_a_busy_machine_a_quiet_one_is_expected_to_be_as_quick_as_usual_and_no_quicker(tmp_path):
    experience = budget_shares.by_experience(300.0, TEXT)
    finish(tmp_path, implementation=8.0, deployment=80.0, documentation=3.0, environment=1.0)
    expected = budget_shares.expected(tmp_path, 300.0, TEXT, done=steps_of(implementation=2.0))
    assert expected["deployment"] == pytest.approx(20.0)  # a quarter, as it is with phase 2
    assert expected["documentation"] == experience["documentation"]
    assert expected["environment"] == pytest.approx(1.0)  # as it was
    assert expected["dataset"] == experience["dataset"]


@given(st.dictionaries(st.sampled_from(sorted(budget_shares.STEPS)), st.floats(0.01, 1e4)), st.floats(1.0, 100.0))
def test_what_a_training_has_shown_is_the_least_for_what_comes_after_it(seconds, slowdown):
    experience = budget_shares.by_experience(300.0, TEXT)
    expected = budget_shares.expected(NOWHERE, 300.0, TEXT, "", steps_of(**seconds), slowdown)
    for name in PHASES:
        if name in seconds:
            assert expected[name] == experience[name]
        else:
            assert expected[name] >= slowdown * experience[name] >= experience[name]


def test_a_run_is_compared_with_those_before_it_and_not_with_itself(tmp_path):
    """What this start took so far stands in the markers already."""
    finish(tmp_path, implementation=2.0, deployment=7.0)
    markers = MarkerFiles(tmp_path / "default/markers")
    before = markers.read("implementation.checks")[0]
    now = replace(before, started_at="2026-11-21 10:00:00", seconds=50.0, previous=to_json(before))
    markers.write(now)
    assert budget_shares.taken_before(tmp_path, 300.0, TEXT)["implementation"] == 50.0
    assert budget_shares.taken_before(tmp_path, 300.0, TEXT, "2026-11-21 09:59:59")["implementation"] == 2.0
    expected = budget_shares.expected(
        tmp_path, 300.0, TEXT, "2026-11-21 09:59:59", done={"implementation.checks": 50.0}
    )
    assert expected["deployment"] == pytest.approx(25 * 7.0)


@given(st.floats(60.0, 1e6), st.floats(1.0, 100.0))
def test_smaller_models_take_their_share_of_the_budget_on_any_machine_and_nothing_of_a_short_one(budget, slowdown):
    seconds = budget_shares.compression_seconds(budget)
    assert seconds == 0.0 if budget < 600 else 0.0 < seconds <= 0.05 * budget
    with_it = budget_shares.expected(NOWHERE, budget, TEXT, slowdown=slowdown)["deployment"]
    experience = budget_shares.by_experience(budget, TEXT)["deployment"]
    assert with_it == pytest.approx(slowdown * experience + seconds)
