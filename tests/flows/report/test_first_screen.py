"""Five questions, answered on the first screen from facts: for a run that went well, one that failed, and none."""

from dataclasses import replace

import pytest

from flows.ledger.facts import BASELINES, EVALUATED, FETCHED, TESTS
from flows.machine.energy import Energy
from flows.report.first_screen import answers
from flows.report.verdict import verdict
from tests.flows.report import report_facts
from tests.flows.report.report_facts import with_phase, with_step

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    return report_facts.complete_facts(tmp_path_factory.mktemp("run"))


def answered(facts) -> dict[str, str]:
    return {row.question: " ".join([row.verdict, *row.lines]) for row in answers(facts)}


def test_a_run_that_went_well_is_answered_in_words_and_figures(complete):
    work, good, cost, wrong, following = answered(complete).values()
    assert work.startswith("Yes.") and "tiny (10.7 M parameters)" in work
    assert "on tiny_shakespeare (40,000 lines" in work
    assert "what it writes looks like its text (93 % of its words are real)" in good
    assert (
        "counting letters 4.79, the compressor xz 2.66, counting what follows each four letters 2.41, **tiny 2.24**"
        in good
    )
    assert "nanoGPT's recipe for CPUs 1.89, **tiny 1.61**, nanoGPT's recipe for one A100 GPU 1.47" in good
    assert "And I will speak with thee" in good
    assert cost.startswith("8 min 59 s, of a budget of 10 min.") and "cpu, 2 cores" in cost
    assert wrong.startswith("One fault, which was repaired. Out of memory in training.tiny: halve the micro-batch")
    assert "14.2 s, 31 steps" in wrong
    assert "nanogpt chat /home/ada/nanogpt-autopilot/exports/night/tiny" in following
    assert "training.weight_decay=1.6` (expected gain: at most 0.23 bits per byte" in following


def test_the_same_fault_again_is_no_line_of_its_own(complete):
    [row] = complete.remedies
    spike = replace(row, symptom="bad_step", remedy="the step was not taken", cost_seconds=0.0, steps_lost=0)
    wrong = answered(replace(complete, remedies=[spike, row, *[spike] * 4]))["What went wrong?"]
    assert wrong.startswith("6 faults, which were repaired. Bad step in training.tiny, 5 times: the step was not ")
    assert wrong.count("Bad step") == 1 and "Out of memory in training.tiny: halve" in wrong and "more are" not in wrong
    many = [replace(row, symptom=f"fault {number}") for number in range(6)]
    assert "more are listed" in answered(replace(complete, remedies=many))["What went wrong?"]


def test_energy_is_named_where_the_machine_says_it_and_its_absence_where_it_does_not(complete):
    counted = replace(complete, energy=Energy({"processor": 36_000.0, "GPU": 72_000.0}, 530.0))
    cost = answered(counted)["What did it cost?"]
    assert cost.startswith("8 min 59 s and 30.00 Wh, of a budget")
    assert "processor 10.00 Wh, GPU 20.00 Wh, counted over 8 min 50 s" in cost
    nothing = replace(complete, energy=Energy(unknown="a Mac says it to root alone (powermetrics)"))
    assert "Energy: not known, a Mac says it to root alone" in answered(nothing)["What did it cost?"]


def test_a_failure_is_said_at_once_with_what_mends_it(tmp_path):
    work, good, _, wrong, following = answered(report_facts.failed_facts(tmp_path)).values()
    assert work.startswith("Partly.") and "not known: The model can be used" in work
    assert "**micro 2.68**" in good
    assert wrong.startswith("One phase failed. Phase 5 Training failed: training.tiny: the device failed 3 times")
    assert "Not run because of that: 7 Deployment." in wrong
    assert following.startswith("Fix it, and continue. Fix phase 5 Training: `") and "device.type=cpu" in following


def test_without_a_model_nothing_is_claimed_of_one():
    work, good, cost, wrong, following = answered(report_facts.bare_facts()).values()
    assert work.startswith("No: no model was trained. 0 of 10 goals") and good == "There is no model."
    assert "1.8 s" in cost and "0.4 GiB free" in wrong and "Fix phase 1 Environment" in following


@pytest.mark.parametrize(
    "bits, work, good",
    [
        (5.0, "No: a model was trained, and it has not learned.", "It has not learned"),
        (2.5, "Partly.", "Weak: counting what follows each four letters predicts as well or better."),
    ],
)
def test_a_weak_model_is_called_weak(complete, bits, work, good):
    figures = complete.of(EVALUATED).models["tiny"]
    weak = replace(figures, test=replace(figures.test, bits_per_byte=bits))
    facts = with_step(complete, EVALUATED, models={"tiny": weak})
    headline = verdict(facts).headline
    if bits > 4:
        facts = with_phase(facts, "evaluation", status="failed", cause=headline, next_command=verdict(facts).command)
        assert answers(facts)[-1].verdict == "Give it more time."
        assert answers(facts)[-1].lines[0].startswith("Train long enough to learn: `python3 -m flows.full_run")
    found = answered(facts)
    assert found["Did it work?"].startswith(work) and found["How good is it?"].startswith(good)
    assert "It learned" in found["Did it work?"].partition("not reached: ")[2]


def test_a_step_that_failed_in_a_phase_that_went_on_is_something_that_went_wrong(complete):
    phase = complete.phase("evaluation")
    failed = replace(phase.steps[-1], name="evaluation.study", title="Look", state="failed", reason="NaN logits")
    facts = replace(with_phase(complete, "evaluation", steps=[*phase.steps, failed]), remedies=[])
    wrong = answered(facts)["What went wrong?"]
    assert wrong.startswith("One step failed; the run went on without it. Look: failed: NaN logits.")


def test_what_could_not_be_judged_is_said_with_its_reason(complete):
    written = replace(complete, documents=["training_report.md", "training_report.html", "README.md",
                                           "troubleshooting.md", "system_report.md"])  # fmt: skip
    stopped = answered(with_step(written, TESTS, timed_out=True, seconds=12.0))
    tally = "9 of 9 goals were reached; not known for lack of time: The project's tests pass."
    assert tally in stopped["Did it work?"]
    assert "The project's own tests had only 12.0 s and did not finish" in stopped["What went wrong?"]
    left_out = answered(with_step(written, TESTS, not_run="the rest of the run leaves 3.0 s for them"))
    assert (
        "9 of 9 goals were reached; not known for lack of time: The project's tests pass." in left_out["Did it work?"]
    )
    assert "tests" not in left_out["What went wrong?"]


def test_figures_of_another_text_are_not_compared_with_nanogpts(complete):
    own = with_step(complete, FETCHED, source="my_diary.txt")
    assert "nanoGPT" not in answered(own)["How good is it?"]
    assert answered(with_step(complete, BASELINES, bits_per_byte={}))["How good is it?"].startswith(
        "It was not compared"
    )
