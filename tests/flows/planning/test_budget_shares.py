"""How the budget is divided: by experience at first, then by what this machine really took."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.ledger.markers import FAILED, FINISHED, Marker, MarkerFiles
from flows.planning import budget_shares
from nanogpt.machine import processor_name

pytestmark = pytest.mark.fast
TEXT = 1_115_394
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
    assert budget_shares.expected(tmp_path, 600.0, TEXT) == budget_shares.by_experience(600.0, TEXT)
    assert set(budget_shares.by_experience(600.0, TEXT)) == PHASES


def test_what_the_last_run_took_here_is_expected_of_the_next(tmp_path):
    finish(tmp_path, evaluation=90.0, dataset=7.0)
    expected = budget_shares.expected(tmp_path, 600.0, TEXT)
    assert expected["evaluation"] == pytest.approx(90.0) and expected["dataset"] == pytest.approx(7.0)
    assert expected["deployment"] == budget_shares.by_experience(600.0, TEXT)["deployment"]  # has never been run


def test_another_machine_or_another_text_teaches_nothing(tmp_path):
    finish(tmp_path, processor="A processor of somebody else", deployment=99.0)
    assert budget_shares.expected(tmp_path, 600.0, TEXT) == budget_shares.by_experience(600.0, TEXT)
    finish(tmp_path, bytes=TEXT // 2, dataset=50.0, evaluation=60.0, deployment=70.0)
    expected, experience = budget_shares.expected(tmp_path, 600.0, TEXT), budget_shares.by_experience(600.0, TEXT)
    assert (expected["dataset"], expected["evaluation"]) == (experience["dataset"], experience["evaluation"])
    assert expected["deployment"] == pytest.approx(70.0)  # whatever the text


def test_a_phase_that_did_not_finish_teaches_nothing(tmp_path):
    finish(tmp_path, deployment=40.0)
    markers = MarkerFiles(tmp_path / "default/markers")
    markers.write(replace(markers.read("deployment.examples")[0], state=FAILED, failed_at="", cause="why not"))
    assert markers.read("deployment.examples")[0].state == FAILED
    assert budget_shares.expected(tmp_path, 600.0, TEXT) == budget_shares.by_experience(600.0, TEXT)


@given(st.floats(60, 1e6), st.integers(1000, 10**10))
def test_the_budget_is_never_given_away_twice(budget, text_bytes):
    phases = budget_shares.by_experience(budget, text_bytes)
    training = budget_shares.training_seconds(budget, phases)
    rest = budget_shares.within(budget - training - budget_shares.START_SECONDS, phases)
    assert training >= budget_shares.LEAST_SHARE * budget
    assert sum(rest.values()) + training + budget_shares.START_SECONDS <= budget * (1 + 1e-9)
    assert all(rest[name] <= phases[name] for name in phases)
