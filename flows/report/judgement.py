"""Did the run reach what it exists for? The mission's success criteria, judged from facts alone.

Each judgement carries its evidence: the number or the file that it rests on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from flows.ledger.facts import (
    CHECKS,
    DEVICE,
    EVALUATED,
    EXAMPLES,
    EXPORTED,
    FORMATS,
    PACKAGES,
    SAMPLES,
    SERVED,
    SYSTEM,
    TESTS,
    Criterion,
    Trained,
)
from flows.report.facts import ModelFacts, PhaseFacts, RunFacts
from flows.report.markdown import against
from flows.report.verdict import verdict
from flows.supervision.own_tests import MOST_SECONDS
from nanogpt.training.record.metrics import read_metrics
from nanogpt.units import chosen_duration, count, duration, number

OWN_TESTS = "The project's tests pass"
PLAN_TOLERANCE = 0.20  # of a predicted time
BUDGET_TOLERANCE = 0.05
NOTICEABLE = 5.0  # seconds; a short phase may be off by more than its share without anyone minding
REPORT = ("training_report.md", "training_report.html")
GUIDES = ("README.md", "troubleshooting.md", "system_report.md")

Judgement = tuple[bool | None, str]  # None: not known yet; the evidence in a line


def criteria(facts: RunFacts) -> list[Criterion]:
    """The mission's success criteria."""
    judged = [
        ("Environment set up", _environment(facts)),
        ("Component checks pass", _component_checks(facts)),
        ("A model was trained", _trained(facts)),
        ("It learned", _learned(facts)),
        ("Its samples look like the text", _looks_like_the_text(facts)),
        ("The plan held", _plan_held(facts)),
        (OWN_TESTS, _tests(facts)),
        ("The model can be used", _usable(facts)),
        ("Documents written", _written(facts, GUIDES)),
        ("Report made", _written(facts, REPORT)),
    ]
    return [
        Criterion(name, met, evidence, had_no_time=name == OWN_TESTS and _tests_had_no_time(facts))
        for name, (met, evidence) in judged
    ]


def reached(judged: Sequence[Criterion]) -> str:
    """'7 of 9': how many goals of how many."""
    return f"{sum(goal.met is True for goal in judged)} of {sum(not goal.had_no_time for goal in judged)}"


def not_reached(judged: Sequence[Criterion]) -> dict[str, list[Criterion]]:
    """The other ones, by what became of them; what there was no time for counts neither for the run nor against it."""
    found = {
        "not reached": [goal for goal in judged if goal.met is False],
        "not known": [goal for goal in judged if goal.met is None and not goal.had_no_time],
        "not known for lack of time": [goal for goal in judged if goal.had_no_time],
    }
    return {words: goals for words, goals in found.items() if goals}


def trained_models(facts: RunFacts) -> list[ModelFacts]:
    """The models whose training finished, in the order of the plan."""
    return [model for model in facts.models if model.trained]


def best_model(facts: RunFacts) -> ModelFacts | None:
    """The evaluated best model, or without an evaluation the trained one of lowest validation loss."""
    evaluated, trained = facts.of(EVALUATED), trained_models(facts)
    for model in trained:
        if evaluated and model.name == evaluated.best:
            return model
    return min(trained, key=_best_val_loss, default=None)


def _best_val_loss(model: ModelFacts) -> float:
    loss = model.trained.best_val_loss if model.trained else None
    return math.inf if loss is None else loss


def _environment(facts: RunFacts) -> Judgement:
    system, device = facts.of(SYSTEM), facts.of(DEVICE)
    if system is None or device is None:
        return _no_figures(facts, "environment.")
    failed = [check.name for check in system.checks if check.level == "fail"]
    if failed:
        return False, f"failed: {', '.join(failed)}"
    packages = facts.of(PACKAGES)
    frozen = number(packages.count if packages else None)
    return True, f"{len(system.checks)} checks passed on {device.device}, {frozen} packages frozen"


def _component_checks(facts: RunFacts) -> Judgement:
    checks = facts.of(CHECKS)
    if checks is None:
        return _no_figures(facts, "implementation.")
    total = checks.passed + checks.failed
    return checks.failed == 0 and total > 0, f"{checks.passed} of {total} passed on {checks.device}"


def _trained(facts: RunFacts) -> Judgement:
    trained = trained_models(facts)
    if not trained:
        return _no_figures(facts, "training.")
    tokens = sum(model.trained.tokens for model in trained if model.trained)
    return True, f"{', '.join(model.name for model in trained)}: {count(tokens)} tokens in all"


def _learned(facts: RunFacts) -> Judgement:
    """Its loss fell, and it predicts better than counting letters does, that of a 5-gram included."""
    best = best_model(facts)
    if best is None or best.trained is None:
        return _no_figures(facts, "training.")
    train, _ = read_metrics(Path(best.folder))
    start = next((row["loss"] for row in train if row.get("loss") is not None), None)
    end = best.trained.best_val_loss
    if start is None or end is None:
        return None, f"no metrics in {best.folder}"
    fell = f"{best.name}: from {start:.3f} (first step) to {end:.4f} (best validation) nats per token"
    found = verdict(facts)
    if found is None:
        return (False, fell) if end >= start else (None, f"{fell}; not compared with a model without context")
    return end < start and found.level == "learned", f"{fell}; {found.headline}"


def _looks_like_the_text(facts: RunFacts) -> Judgement:
    samples = facts.of(SAMPLES)
    if samples is None:
        return _no_figures(facts, "evaluation.samples")
    judged = samples.coherence
    return judged.coherent, (
        f"score {number(judged.score)}, limit {number(judged.limit)}, real text {number(judged.reference)} "
        f"({judged.measure}; sense is not judged)"
    )


def _plan_held(facts: RunFacts) -> Judgement:
    """Every training took the time that was predicted, and made the steps, within PLAN_TOLERANCE, and the run its
    budget; early stopping is no mistake of the plan. Phases that missed theirs are named."""
    rows = [(model.name, model.trained) for model in trained_models(facts) if model.trained]
    rows = [(name, outcome) for name, outcome in rows if outcome.predicted_seconds]
    if not rows:
        return _no_figures(facts, "training.")
    held = all(
        (is_as_planned(outcome.seconds, outcome.predicted_seconds) and _made_its_steps(outcome))
        or outcome.reason == "early stopping"
        for _, outcome in rows
    )
    evidence = [
        f"{name} {duration(outcome.seconds)}, planned {duration(outcome.predicted_seconds)} "
        f"({against(outcome.seconds, outcome.predicted_seconds)}){_steps_made(outcome)}"
        for name, outcome in rows
    ]
    missed = [f"{phase.title} ({against(phase.seconds, phase.planned_seconds)})" for phase in missed_phases(facts)]
    if missed:
        evidence.append(f"phases off by more than 20 %: {', '.join(missed)}")
    if _is_late(facts):
        taken, budget = duration(facts.spent_seconds), chosen_duration(facts.budget_seconds)
        evidence.append(f"the run took {taken} of a budget of {budget}")
    return held and not _is_late(facts), "; ".join(evidence)


def _is_late(facts: RunFacts) -> bool:
    """Whether the run took more than its budget, by more than a moment."""
    return facts.spent_seconds - facts.budget_seconds > max(NOTICEABLE, BUDGET_TOLERANCE * facts.budget_seconds)


def _made_its_steps(outcome: Trained) -> bool:
    """More than were planned are no fault."""
    return not outcome.predicted_steps or outcome.step >= (1 - PLAN_TOLERANCE) * outcome.predicted_steps


def _steps_made(outcome: Trained) -> str:
    if not outcome.predicted_steps:
        return ""
    return f", {outcome.step:,} steps of {outcome.predicted_steps:,} ({against(outcome.step, outcome.predicted_steps)})"


def is_as_planned(taken: float, planned: float) -> bool:
    """Within the tolerance that a plan is held to."""
    return abs(taken / planned - 1) <= PLAN_TOLERANCE


def missed_phases(facts: RunFacts) -> list[PhaseFacts]:
    """Phases, but training, whose time was off by more than the tolerance and by more than a few seconds."""
    return [
        phase
        for phase in facts.phases
        if phase.name != "training"
        and phase.planned_seconds
        and phase.seconds
        and abs(phase.seconds - phase.planned_seconds) > NOTICEABLE
        and not is_as_planned(phase.seconds, phase.planned_seconds)
    ]


def _tests_had_no_time(facts: RunFacts) -> bool:
    """Not those that had all the time that they may take, and hung."""
    tests = facts.of(TESTS)
    return tests is not None and (bool(tests.not_run) or (tests.timed_out and tests.seconds < MOST_SECONDS))


def _tests(facts: RunFacts) -> Judgement:
    tests = facts.of(TESTS)
    if tests is None:
        return _no_figures(facts, "evaluation.tests")
    if tests.not_run:
        return None, f"not run: {tests.not_run}"
    if tests.timed_out:
        return None, f"not finished: they were stopped after {duration(tests.seconds)}"
    return tests.failed == 0 and tests.passed > 0, (
        f"{tests.passed} passed, {tests.failed} failed, {tests.skipped} skipped in {duration(tests.seconds)}"
    )


def _usable(facts: RunFacts) -> Judgement:
    """It was exported, served and run by the examples; a form that cannot hold such a model is no failure."""
    failed = [step for step in facts.phase("deployment").steps if step.state == "failed"]
    if failed:
        return False, "; ".join(f"{step.title}: {step.reason}" for step in failed)
    exported, formats, served, shown = facts.of(EXPORTED), facts.of(FORMATS), facts.of(SERVED), facts.of(EXAMPLES)
    if exported is None or formats is None or served is None or shown is None:
        return _no_figures(facts, "deployment.")
    forms = ", ".join(["hf", *(form.name for form in formats.formats)])
    return True, (
        f"exported as {forms}; served with {number(served.tokens_per_second)} tokens per second; "
        f"{len(shown.examples)} {'example' if len(shown.examples) == 1 else 'examples'} ran"
    )


def _written(facts: RunFacts, names: Sequence[str]) -> Judgement:
    if facts.documents is None:
        return _no_figures(facts, "documentation.")
    missing = [name for name in names if name not in facts.documents]
    return (False, f"missing: {', '.join(missing)}") if missing else (True, ", ".join(names))


def _no_figures(facts: RunFacts, steps: str) -> Judgement:
    """The judgement where the steps of a name, or of a whole phase, left no figures: failed when one failed, else not
    known."""
    phase = facts.phase(steps.partition(".")[0])
    for step in phase.steps:
        if step.name.startswith(steps) and step.state == "failed":
            return False, step.reason
    if phase.status == "failed" and not phase.steps:
        return False, str(phase.cause)
    cause = f" ({phase.cause})" if phase.cause else ""
    return None, f"not measured; phase {phase.number} {phase.title}: {phase.status}{cause}"
