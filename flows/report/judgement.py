"""Did the run reach what it exists for? The mission's success criteria, judged from facts alone.

Each verdict carries its evidence: the number or the file that it rests on.
"""

import math
from pathlib import Path
from typing import Any

from flows.report import markdown as wording
from nanogpt.training.record.metrics import read_metrics

Facts = dict[str, Any]

PLAN_TOLERANCE = 0.20  # of a predicted time
NOTICEABLE = 5.0  # seconds; a short phase may be off by more than its share without anyone minding
DOCUMENTS = ("training_report.md", "training_report.html", "README.md", "troubleshooting.md", "system_report.md")


def criteria(facts: Facts) -> list[Facts]:
    """The mission's success criteria: [{name, met: True | False | None (not known yet), evidence: one line}]."""
    judged = [
        ("Environment set up", _environment(facts)),
        ("Component checks pass", _component_checks(facts)),
        ("A model was trained", _trained(facts)),
        ("Its loss fell", _loss_fell(facts)),
        ("Its samples are coherent", _coherent(facts)),
        ("The plan held", _plan_held(facts)),
        ("The project's tests pass", _tests(facts)),
        ("Documents written", _documents(facts)),
        ("Report made", _report(facts)),
    ]
    return [{"name": name, "met": met, "evidence": evidence} for name, (met, evidence) in judged]


def trained_models(facts: Facts) -> list[Facts]:
    """The models whose training finished, in the order of the ladder."""
    return [model for model in facts["models"] if (model.get("facts") or {}).get("status") == "finished"]


def best_model(facts: Facts) -> Facts | None:
    """The evaluated best model, or without an evaluation the trained one of lowest validation loss."""
    trained = trained_models(facts)
    name = facts["steps"].get("evaluation.models", {}).get("best")
    for model in trained:
        if model["name"] == name:
            return model
    return min(trained, key=lambda model: model["facts"].get("best_val_loss") or math.inf, default=None)


def _environment(facts: Facts) -> tuple[bool | None, str]:
    system, device = facts["steps"].get("environment.system"), facts["steps"].get("environment.device")
    if not system or not device:
        return _no_figures(facts, 1, "environment.")
    failed = [check["name"] for check in system["checks"] if check["level"] == "fail"]
    if failed:
        return False, f"failed: {', '.join(failed)}"
    packages = facts["steps"].get("environment.packages", {}).get("count")
    passed = f"{len(system['checks'])} checks passed on {device['device']}"
    return True, f"{passed}, {wording.number(packages)} packages frozen"


def _component_checks(facts: Facts) -> tuple[bool | None, str]:
    checks = facts["steps"].get("implementation.checks")
    if not checks:
        return _no_figures(facts, 2, "implementation.")
    total = checks["passed"] + checks["failed"]
    return checks["failed"] == 0 and total > 0, f"{checks['passed']} of {total} passed on {checks['device']}"


def _trained(facts: Facts) -> tuple[bool | None, str]:
    trained = trained_models(facts)
    if not trained:
        return _no_figures(facts, 5, "training.")
    tokens = sum(model["facts"].get("tokens") or 0 for model in trained)
    names = ", ".join(model["name"] for model in trained)
    return True, f"{names}: {wording.count(tokens)} tokens in all"


def _loss_fell(facts: Facts) -> tuple[bool | None, str]:
    best = best_model(facts)
    if best is None:
        return _no_figures(facts, 5, "training.")
    train, _ = read_metrics(Path(best["folder"]))
    start = next((row["loss"] for row in train if row.get("loss") is not None), None)
    end = best["facts"].get("best_val_loss")
    if start is None or end is None:
        return None, f"no metrics in {best['folder']}"
    return end < start, f"{best['name']}: from {start:.3f} (first step) to {end:.4f} (best validation) nats per token"


def _coherent(facts: Facts) -> tuple[bool | None, str]:
    judged = facts["steps"].get("evaluation.samples", {}).get("coherence")
    if not judged:
        return _no_figures(facts, 6, "evaluation.samples")
    return bool(judged["coherent"]), (
        f"score {wording.number(judged['score'])}, limit {wording.number(judged['limit'])}, "
        f"real text {wording.number(judged['reference'])} ({judged['measure']})"
    )


def _plan_held(facts: Facts) -> tuple[bool | None, str]:
    """Every training took the time that was predicted, within PLAN_TOLERANCE; early stopping is no mistake of the plan.
    Phases that missed theirs are named."""
    predicted = [model for model in trained_models(facts) if model["facts"].get("predicted_seconds")]
    if not predicted:
        return _no_figures(facts, 5, "training.")
    rows = [(model["name"], model["facts"]["seconds"], model["facts"]["predicted_seconds"], model["facts"]["reason"])
            for model in predicted]  # fmt: skip
    held = all(is_as_planned(taken, planned) or reason == "early stopping" for _, taken, planned, reason in rows)
    told = [
        f"{name} {wording.duration(taken)}, planned {wording.duration(planned)} ({wording.against(taken, planned)})"
        for name, taken, planned, _ in rows
    ]
    missed = [f"{phase['title']} ({wording.against(phase['seconds'], phase['planned_seconds'])})"
              for phase in missed_phases(facts)]  # fmt: skip
    return held, "; ".join(told + ([f"phases off by more than 20 %: {', '.join(missed)}"] if missed else []))


def is_as_planned(taken: float, planned: float) -> bool:
    """Within the tolerance that a plan is held to."""
    return abs(taken / planned - 1) <= PLAN_TOLERANCE


def missed_phases(facts: Facts) -> list[Facts]:
    """Phases, but training, whose time was off by more than the tolerance and by more than a few seconds."""
    timed = [phase for phase in facts["phases"] if phase.get("planned_seconds") and phase.get("seconds")]
    return [
        phase for phase in timed
        if phase["number"] != 5 and abs(phase["seconds"] - phase["planned_seconds"]) > NOTICEABLE
        and not is_as_planned(phase["seconds"], phase["planned_seconds"])
    ]  # fmt: skip


def _tests(facts: Facts) -> tuple[bool | None, str]:
    tests = facts["steps"].get("evaluation.tests")
    if not tests:
        return _no_figures(facts, 6, "evaluation.tests")
    if tests.get("timed_out"):
        return None, f"not finished: they were stopped after {wording.duration(tests['seconds'])}"
    return tests["failed"] == 0 and tests["passed"] > 0, (
        f"{tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} skipped in "
        f"{wording.duration(tests['seconds'])}"
    )


def _documents(facts: Facts) -> tuple[bool | None, str]:
    return _written(facts, [name for name in DOCUMENTS if not name.startswith("training_report")])


def _report(facts: Facts) -> tuple[bool | None, str]:
    return _written(facts, [name for name in DOCUMENTS if name.startswith("training_report")])


def _written(facts: Facts, names: list[str]) -> tuple[bool | None, str]:
    written = facts.get("documents")
    if written is None:
        return _no_figures(facts, 8, "documentation.")
    missing = [name for name in names if name not in written]
    return (False, f"missing: {', '.join(missing)}") if missing else (True, ", ".join(names))


def _no_figures(facts: Facts, number: int, step: str) -> tuple[bool | None, str]:
    """The verdict where `step` of phase `number` left no figures: failed when it failed, else not known."""
    phase = facts["phases"][number - 1]
    for row in phase["steps"]:
        if row["name"].startswith(step) and row["state"] == "failed":
            return False, str(row["reason"])
    if phase["status"] == "failed" and not phase["steps"]:
        return False, str(phase.get("cause"))
    cause = f" ({phase['cause']})" if phase.get("cause") else ""
    return None, f"not measured; phase {number} {phase['title']}: {phase['status']}{cause}"
