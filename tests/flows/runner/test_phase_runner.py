"""Phases continue without one another: a failure costs its phase, and what needs its steps."""

import pytest

from nanogpt.faults import UserError
from tests.flows.small_flow import ALL, COMMAND, FETCH, TRAIN, Flow, Parts

pytestmark = pytest.mark.fast
OURS = ("environment", "dataset", "training", "evaluation", "documentation")


@pytest.fixture
def flow(tmp_path) -> Flow:
    return Flow(tmp_path)


def test_a_phase_is_done_and_kept_the_next_time(flow):
    parts = Parts(flow)
    parts.run_phases()
    assert {parts.statuses()[name] for name in OURS} == {"done"} and parts.phases.record("training").seconds > 0
    parts = Parts(flow)
    parts.run_phases()
    assert {parts.statuses()[name] for name in OURS} == {"kept"}
    assert not parts.phases.is_whole(), "three phases were never run"


def test_a_failed_phase_blocks_what_needs_it_and_nothing_else(flow):
    flow.failing["training.micro"] = RuntimeError("no remedy is left")
    parts = Parts(flow)
    parts.run_phases()
    assert flow.worked == [name for name in ALL if name != "evaluation.judge"]
    training, evaluation = parts.phases.record("training"), parts.phases.record("evaluation")
    assert (training.status, training.cause) == ("failed", "no remedy is left")
    assert (evaluation.status, evaluation.cause) == ("blocked", "training.micro has not finished")
    assert training.next_command == evaluation.next_command == COMMAND
    assert parts.statuses()["dataset"] == parts.statuses()["documentation"] == "done"
    assert "5 Training failed: no remedy is left" in flow.log


def test_after_a_failure_the_next_start_does_what_is_left(flow):
    flow.failing["training.micro"] = RuntimeError("no remedy is left")
    Parts(flow).run_phases()
    flow.worked.clear()
    flow.failing.clear()
    parts = Parts(flow)
    parts.run_phases()
    assert flow.worked == ["training.micro", "evaluation.judge"]
    assert parts.statuses()["dataset"] == "kept"


def test_a_failure_without_words_is_called_by_its_name(flow):
    flow.failing["environment.device"] = MemoryError()
    parts = Parts(flow)
    parts.run_phases()
    assert parts.phases.record("environment").cause == "MemoryError"


@pytest.mark.parametrize("error", [UserError("data.source: is empty"), KeyboardInterrupt(), SystemExit(1)])
def test_a_persons_mistake_before_a_model_is_trained_or_a_stop_ends_the_phases(flow, error):
    flow.failing["dataset.fetch"] = error
    parts = Parts(flow)
    with pytest.raises(type(error)):
        parts.run_phases()
    assert "training.micro" not in flow.worked and not parts.phases.is_whole()
    assert parts.phases.running() == ("environment" if isinstance(error, UserError) else "dataset")


def test_a_persons_mistake_after_a_model_is_trained_costs_its_phase_alone(flow):
    flow.failing["evaluation.judge"] = UserError("config.yaml: cannot be read")
    parts = Parts(flow)
    parts.run_phases()
    assert parts.phases.record("evaluation").cause == "config.yaml: cannot be read"
    assert parts.statuses()["documentation"] == "done"


def test_of_the_phases_only_the_one_that_is_asked_for_runs(flow):
    Parts(flow).run_phases()
    flow.worked.clear()
    flow.settings["training.micro"] = {"max_iters": 7}
    parts = Parts(flow, only="training")
    parts.steps.finished.add(FETCH.step)
    parts.run_phases()
    assert flow.worked == [TRAIN.step]
    assert {parts.statuses()[name] for name in OURS if name != "training"} == {"skipped"}
