"""Each criterion follows its figures, and says so; each recommendation names the number that caused it."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.ledger.facts import (
    BASELINES,
    EVALUATED,
    FORMATS,
    MEASURED,
    PLANNED,
    SAMPLES,
    SERVED,
    SYSTEM,
    TESTS,
    LeftOut,
)
from flows.planning.forecast import PLAYS
from flows.report.facts import RunFacts
from flows.report.judgement import GUIDES, REPORT, criteria
from flows.report.recommendations import MOST, recommendations, with_option
from tests.flows.report import report_facts
from tests.flows.report.report_facts import with_phase, with_step, with_training

pytestmark = pytest.mark.fast


@pytest.fixture
def facts(tmp_path) -> RunFacts:
    return report_facts.complete_facts(tmp_path)


def verdicts(facts: RunFacts) -> dict[str, bool | None]:
    return {row.name: row.met for row in criteria(facts)}


def verdict(facts: RunFacts, name: str) -> tuple[bool | None, str]:
    return next((row.met, row.evidence) for row in criteria(facts) if row.name == name)


def test_a_complete_run_meets_all_criteria_each_with_evidence(facts):
    facts = replace(facts, documents=[*REPORT, *GUIDES])
    assert all(verdicts(facts).values())
    assert all(row.evidence for row in criteria(facts))
    met, evidence = verdict(replace(facts, documents=[*REPORT, *GUIDES[1:]]), "Documents written")
    assert met is False and evidence == f"missing: {GUIDES[0]}"


def test_what_was_never_measured_is_neither_met_nor_failed():
    met = verdicts(report_facts.bare_facts())
    assert met["Environment set up"] is False
    assert {met[name] for name in ("Component checks pass", "A model was trained", "The project's tests pass")} == {
        None
    }


def test_tests_that_were_stopped_are_neither_met_nor_failed(facts):
    facts = with_step(facts, TESTS, passed=0, timed_out=True, seconds=600.0)
    met, evidence = verdict(facts, "The project's tests pass")
    assert met is None and "stopped after 10 min" in evidence


def test_a_model_that_was_not_served_cannot_be_used(facts):
    met, evidence = verdict(facts, "The model can be used")
    assert met and "hf, gguf" in evidence and "388" in evidence and "2 examples" in evidence
    steps = [replace(step, state="failed", reason="it ended with code 3") if step.name == SERVED.step else step
             for step in facts.phase("deployment").steps]  # fmt: skip
    failed = with_phase(facts, "deployment", status="failed", cause="it ended with code 3", steps=steps)
    met, evidence = verdict(failed, "The model can be used")
    assert met is False and "it ended with code 3" in evidence
    before = replace(facts, steps={name: value for name, value in facts.steps.items() if name != FORMATS.step})
    assert verdict(before, "The model can be used")[0] is None  # of a run that older code has finished


def test_criteria_follow_the_figures(facts):
    facts = with_step(facts, TESTS, failed=1)
    facts = with_step(facts, SAMPLES, coherence=replace(facts.of(SAMPLES).coherence, coherent=False))
    first, *others = facts.of(SYSTEM).checks
    facts = with_step(facts, SYSTEM, checks=[replace(first, level="fail"), *others])
    facts = with_training(facts, "tiny", best_val_loss=9.0)
    met = verdicts(facts)
    assert not any(met[name] for name in ("The project's tests pass", "Its samples look like the text",
                                          "Environment set up", "It learned"))  # fmt: skip
    assert met["A model was trained"] and met["Component checks pass"]


@pytest.mark.parametrize("taken, reason, held", [
    (430 * 1.19, "out of time", True), (430 * 1.21, "max_iters", False), (430 * 0.5, "max_iters", False),
    (100, "early stopping", True),
])  # fmt: skip
def test_a_plan_holds_that_was_within_a_fifth_of_what_each_training_took(facts, taken, reason, held):
    met, evidence = verdict(with_training(facts, "tiny", seconds=taken, reason=reason), "The plan held")
    assert met is held
    assert "tiny" in evidence and "planned 7 min 10 s" in evidence


@pytest.mark.parametrize("share, held", [(0.81, True), (1.5, True), (0.79, False)])
def test_a_plan_holds_whose_training_made_about_as_many_steps_as_planned_or_more(facts, share, held):
    planned = next(model.trained.step for model in facts.models if model.name == "tiny")
    facts = with_training(facts, "tiny", seconds=430, predicted_steps=planned, step=int(planned * share))
    met, evidence = verdict(facts, "The plan held")
    assert met is held and f"{int(planned * share):,} steps of {planned:,}" in evidence


@pytest.mark.parametrize("budget, spent, held", [(600, 629, True), (600, 631, False), (60, 64, True), (60, 66, False)])
def test_a_plan_does_not_hold_whose_run_took_longer_than_its_budget(facts, budget, spent, held):
    met, evidence = verdict(replace(facts, budget_seconds=budget, spent_seconds=spent), "The plan held")
    assert met is held and ("the run took" not in evidence) is held


def test_a_phase_that_missed_its_plan_by_more_than_a_moment_is_named_with_the_plan(facts):
    facts = with_phase(facts, "evaluation", seconds=2 * facts.phase("evaluation").planned_seconds)
    nobody_minds = facts.phase("environment").planned_seconds + 4
    _, evidence = verdict(with_phase(facts, "environment", seconds=nobody_minds), "The plan held")
    assert "phases off by more than 20 %: Evaluation (+100 %)" in evidence and "Environment" not in evidence


def advice(facts: RunFacts, word: str) -> str:
    """The one recommendation that says a word: its advice, reasons, expected gain and command."""
    found = [text for row in recommendations(facts) if word in (text := " ".join(asdict(row).values()))]
    assert len(found) == 1, (word, recommendations(facts))
    return found[0]


def test_a_remedy_becomes_a_permanent_setting(facts):
    line = advice(facts, "out_of_memory")
    assert "--set training.batch_size=6 --set training.gradient_accumulation=8" in line and "14.2 s" in line


def test_a_gap_between_train_and_validation_is_overfitting(facts):
    line = advice(facts, "overfits")
    assert "1.5200 against 1.3600" in line and "at most 0.23 bits per byte" in line
    assert "or else more weight decay" in line and "--set training.weight_decay=1.6" in line  # as a plan would give
    configs = {name: config.with_changes({"training.weight_decay": 4.0}) for name, config in facts.configs.items()}
    line = advice(replace(facts, configs=configs), "overfits")
    assert "or else less weight decay" in line and "--set training.weight_decay=1.6" in line


def test_where_the_weight_decay_is_as_planned_more_text_alone_is_advised(facts):
    """More of it does harm."""
    planned = {name: config.with_changes({"training.weight_decay": 1.6}) for name, config in facts.configs.items()}
    line = advice(replace(facts, configs=planned), "overfits")
    assert line.startswith("Give it more text (--data FOLDER) ") and "nanogpt data list" in line
    assert "its weight decay, 1.6, is what such a training needs" in line and "training.weight_decay=" not in line


def test_a_gap_after_a_pass_or_two_of_a_small_model_is_no_overfitting(facts):
    """micro's two minutes: weight decay 0.1 costs it 0.009 (docs/recipe.md)."""
    few = with_training(facts, "tiny", parameters=800_000, tokens=1_700_000)
    assert not [row for row in recommendations(few) if "overfits" in row.because]


def test_a_loss_that_still_falls_asks_for_time(facts):
    facts = with_training(facts, "tiny", tokens=2_000_000)
    write_curve(facts, [(step, 4 - step / 1000, 4 - step / 1000) for step in range(100, 2100, 100)])
    line = advice(facts, "was still learning")
    assert "fell by 1.000 per 1,000 steps" in line and "--budget 40m" in line
    trained, tokens = facts.model("tiny").trained, 1_003_854
    of_step = trained.tokens / trained.step
    now, then = (PLAYS.after(10_650_000, times * trained.tokens, of_step, tokens, 1.0) for times in (1, 4))
    assert f"about {now - then:.2f} bits per byte, from 2.24 to {2.236 - (now - then):.2f}" in line


def test_a_loss_that_rose_again_asks_to_stop_early_and_for_no_more_time(facts):
    write_curve(facts, [(step, 2 + abs(step - 500) / 1000, 1.0) for step in range(100, 1100, 100)])
    line = advice(facts, "trained past its best")
    assert "2.0000 at step 500" in line and "training.early_stopping_patience=3" in line
    assert "1 min 20 s of training" in line  # 398 s, of which a fifth follows the third evaluation after the best
    assert not any(row.advice == "Train longer" for row in recommendations(facts))


def test_a_loss_that_rose_at_the_very_end_asks_for_text_because_patience_would_not_have_ended_it_sooner(facts):
    write_curve(facts, [(step, 2 + abs(step - 800) / 1000, 1.0) for step in range(100, 1100, 100)])
    line = advice(facts, "overfits")
    assert line.startswith("Give it more text") and "2.2000 against 1.0000" in line
    assert not any("early_stopping" in row.command for row in recommendations(facts))


def write_curve(facts: RunFacts, curve: list[tuple[int, float, float]]) -> None:
    """tiny's evaluations: (step, validation loss, training loss)."""
    rows = [{"kind": "eval", "step": step, "val_loss": val_loss, "train_loss": train_loss, "seconds": step}
            for step, val_loss, train_loss in curve]  # fmt: skip
    (Path(facts.model("tiny").folder) / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_figures_that_stand_out_are_named_with_their_number(facts):
    facts = with_step(facts, EVALUATED, best="micro")
    facts = with_step(facts, BASELINES, bits_per_byte={**facts.of(BASELINES).bits_per_byte, "6-gram": 2.5})
    measured = facts.of(MEASURED).models
    slow = replace(measured["micro"], share_of_matmul=0.04)
    facts = with_step(facts, MEASURED, models={**measured, "micro": slow})
    line = advice(facts, "no better than 5-gram")
    assert "2.683 against 2.410" in line and "micro beats tiny, which saw only 2,300 steps" in line
    assert not any("matrix-product peak" in row.because for row in recommendations(facts)), "memory ran out in this run"
    facts = replace(facts, remedies=[row for row in facts.remedies if row.symptom != "out_of_memory"])
    assert "4.0 %" in advice(facts, "matrix-product peak")


def test_a_late_phase_asks_for_its_time_unless_the_model_needs_far_more(facts):
    facts = with_phase(facts, "evaluation", seconds=90)
    assert "1 min 30 s, planned 40.0 s" in advice(facts, "phase 6 Evaluation took")
    undertrained = with_step(facts, EVALUATED, best="micro")
    assert not any("Evaluation took" in row.because for row in recommendations(undertrained))


def test_more_time_is_advised_only_for_a_model_that_time_is_wanting_for(facts):
    facts = with_training(facts, "tiny", peak_memory_bytes=2**28)
    assert "the plan can add small" in advice(facts, "memory is not the limit")
    outdone = LeftOut("micro", "it would reach 2.10 bits per byte")  # which is smaller
    more = with_step(facts, PLANNED, left_out=[outdone, *facts.of(PLANNED).left_out])
    assert "the plan can add small" in advice(more, "memory is not the limit")
    facts = with_step(facts, PLANNED, left_out=facts.of(PLANNED).left_out[:-1])
    assert not any("memory is not the limit" in row.because for row in recommendations(facts))


def test_a_failed_phase_is_the_first_thing_to_do(tmp_path):
    first = recommendations(report_facts.failed_facts(tmp_path))[0]
    assert first.advice == "Fix phase 5 Training" and "device.type=cpu" in first.command


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    curve=st.lists(st.floats(0.5, 5.0), min_size=3, max_size=12),
    shares=st.lists(st.floats(0.01, 0.3), min_size=2, max_size=2),
    late=st.sets(st.sampled_from(["evaluation", "dataset", "deployment", "implementation"])),
    symptoms=st.lists(st.sampled_from(["out_of_memory", "non_finite", "stall", "asleep"]), max_size=4),
)
def test_no_two_recommendations_repeat_each_other_and_none_is_past_five(facts, curve, shares, late, symptoms):
    write_curve(facts, [(100 * step, loss, 0.8 * loss) for step, loss in enumerate(curve, 1)])
    measured = facts.of(MEASURED).models
    slow = {name: replace(measured[name], share_of_matmul=share) for name, share in zip(measured, shares, strict=True)}
    facts = with_step(facts, MEASURED, models=slow)
    for name in late:
        facts = with_phase(facts, name, seconds=500.0)
    remedy, names = facts.remedies[0], ("training.micro", "training.tiny") * 2
    remedies = [replace(remedy, symptom=symptom, step=name) for symptom, name in zip(symptoms, names, strict=False)]
    facts = replace(facts, remedies=remedies)
    found = recommendations(facts)
    assert len(found) <= MOST
    assert len({row.advice for row in found}) == len(found) and len({row.command for row in found}) == len(found)
    assert all(row.expected and row.because for row in found)
    gains = [float(gain) for row in found if (gain := "".join(re.findall(r"^about ([\d.]+) bits", row.expected)))]
    assert gains == sorted(gains, reverse=True)


def test_an_option_is_replaced_a_setting_is_added():
    command = "python3 -m flows.full_run --budget 10m --data 'my text' --set a=1"
    assert with_option(command, "--budget", "1h") == "python3 -m flows.full_run --budget 1h --data 'my text' --set a=1"
    assert with_option(command, "--set", "b=2") == f"{command} --set b=2"


def test_a_gain_too_small_to_see_is_not_said_to_lead_anywhere(facts):
    """Not "about 0.00 bits per byte, from 2.24 to 2.24"."""
    advice = next(row for row in recommendations(facts) if row.advice == "Train longer")
    assert advice.expected.startswith("less than 0.01 bits per byte, by the scaling law")
