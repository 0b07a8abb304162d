"""What trainings took of what was measured, here and before: what a plan expects of the next one."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.ledger.facts import MeasuredModel, Trained
from flows.ledger.markers import FINISHED, Marker, MarkerFiles
from flows.planning import pace
from nanogpt.machine import processor_name
from nanogpt.records import to_json
from tests.flows.parts import outcome, plan
from tests.flows.planning.machines import Machine
from tests.flows.planning.models import model, speed
from tests.flows.planning.models import plan as plan_for

pytestmark = pytest.mark.fast
MICRO = replace(plan("micro").ladder[0], tokens=1_000_000, seconds=100.0)


def measured(device: str = "cpu", threads: int = 2) -> MeasuredModel:
    config = model("small").with_changes({"model.vocab_size": 66, "device.mixed_precision": True, "device.threads": 2})
    figures = {**vars(Machine().rehearse(config, device, "", 1.0)), "threads": threads}
    return MeasuredModel(
        **figures, batch_size=12, gradient_accumulation=1, gradient_checkpointing=False, longest_window=None,
        micro_batch=12,
    )  # fmt: skip


def run(
    states, name: str, times: float, planned_at: float = 1.0, when: str = "2026-11-20", processor: str = ""
) -> None:
    """A run whose training took `times` the measured seconds for a token, planned at another pace."""
    planned = replace(plan("micro"), ladder=[replace(MICRO, seconds=100.0 * planned_at, pace=planned_at)])
    done = Trained(**vars(outcome(seconds=100.0 * times, tokens=1_000_000)), folder="", predicted_seconds=100.0,
                   expected_bits_per_byte=2.0, remedies=[])  # fmt: skip
    system = {"processor": processor or processor_name()}
    facts = {"environment.system": system, "configuration.plan": to_json(planned), "training.micro": to_json(done)}
    for step, found in facts.items():
        marker = Marker(
            step=step, title=step, state=FINISHED, reason="", started_at=f"{when} 10:00:00+00:00", attempts=1,
            settings={}, inputs={}, code={}, history=[], finished_at=f"{when} 11:00:00+00:00", output_digest="0" * 64,
            facts=found, seconds=1.0,
        )  # fmt: skip
        MarkerFiles(states / name / "markers").write(marker)


@pytest.mark.parametrize("may_part, device, threads, expected", [
    (True, "cpu", 2, pace.APART), (True, "cpu", 1, 1.0), (True, "cuda", 2, 1.0), (False, "cpu", 2, 1.0),
])  # fmt: skip
def test_before_any_training_only_cores_that_a_host_may_move_apart_are_expected_to_be_slower(
    tmp_path, monkeypatch, may_part, device, threads, expected
):
    monkeypatch.setattr(pace, "cores_may_part", lambda: may_part)
    assert pace.expected_pace(measured(device, threads), tmp_path, "") == expected


def test_then_it_is_what_the_newest_trainings_on_this_machine_took_of_what_was_measured(tmp_path):
    for day, times in enumerate([9.0, 1.1, 1.3, 1.2, 1.25, 1.15], 10):  # the oldest no longer counts
        run(tmp_path, f"run{day}", times, planned_at=1.13, when=f"2026-11-{day}")
    run(tmp_path, "elsewhere", 1.9, processor="A processor of somebody else")
    run(tmp_path, "this", 1.9, when="2026-11-29")
    (tmp_path / "damaged/markers").mkdir(parents=True)
    assert pace.expected_pace(measured(), tmp_path, "2026-11-29 09:00:00+00:00") == pytest.approx(1.2)


def test_a_day_on_which_the_machine_did_other_work_is_no_rule(tmp_path):
    run(tmp_path, "busy", 7.0)
    assert pace.expected_pace(measured(), tmp_path, "") == pace.MOST


@settings(max_examples=25)
@given(st.floats(1.0, 2.0), st.floats(0.05, 0.5), st.floats(400.0, 1000.0))
def test_a_plan_expects_fewer_steps_and_leaves_room_for_those_of_a_better_pace(times, seconds_per_step, budget):
    slow = replace(speed("small", seconds_per_step), pace=times)
    [expected], [quick] = (plan_for([model("small")], [each], budget=budget).ladder
                           for each in (slow, replace(slow, pace=1.0)))  # fmt: skip
    assert expected.config.training.max_iters == pytest.approx(quick.config.training.max_iters, rel=0.1)
    assert expected.seconds == pytest.approx(quick.seconds, rel=0.05) and expected.pace == times
    if expected.steps > 200:
        assert expected.steps == pytest.approx(quick.steps / times, rel=0.1)
    facts = expected.facts()
    assert facts.steps == expected.steps == expected.tokens // expected.config.tokens_per_step
