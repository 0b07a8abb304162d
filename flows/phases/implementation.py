"""Phase 2: the library is proved on the chosen device before hours are spent on it."""

from __future__ import annotations

from flows.ledger import Outcome, Step
from flows.phases.environment import machine
from flows.run import Run
from flows.worker import WorkerDied
from nanogpt import durable


def implementation(run: Run) -> None:
    run.do(CHECKS)


def check_components(run: Run) -> Outcome:
    """Every component check; a failure on an accelerator falls back to the CPU, on the CPU it stops the run."""
    device = run.facts("environment.device")["device"]
    checks, trouble = _checks_on(run, device)
    warning = ""
    if trouble and device != "cpu":
        warning = f"{device}: {trouble}; going on with the CPU"
        run.remedy(step="implementation.checks", symptom="device", evidence=trouble,
                   remedy="go on with the CPU", outcome="", cost_seconds=0.0, steps_lost=0)  # fmt: skip
        fallen_from, device = device, "cpu"
        checks, trouble = _checks_on(run, device)
    file = run.paths.state / "component_checks.json"
    durable.write_json(file, checks)
    if trouble:
        raise RuntimeError(f"the library does not compute what it should on this machine: {trouble}")
    facts = {
        "device": device, "passed": sum(check["passed"] for check in checks), "failed": 0, "checks": checks,
        "fell_back": bool(warning), "warning": warning,
    }  # fmt: skip
    if warning:
        facts["fell_back_from"] = fallen_from
    run.display.table("component-checks", [_row(check) for check in checks], "Component checks")
    return Outcome([file], facts, identity={"device": device})


def _checks_on(run: Run, device: str) -> tuple[list[dict], str]:
    """The checks, and what is wrong in one line ("" when all passed)."""
    try:
        checks = run.worker.call("nanogpt.study.component_checks:run_checks", device=device, timeout=180)
    except (WorkerDied, RuntimeError, TypeError) as error:
        if device == "cpu":
            raise
        return [], f"{error}".splitlines()[0]
    failed = [check for check in checks if not check["passed"]]
    named = ", ".join(f"{check['name']} (measured {check['measured']:.3g}, limit {check['limit']:.3g})"
                      for check in failed)  # fmt: skip
    return checks, f"{len(failed)} of {len(checks)} component checks failed: {named}" if failed else ""


def _row(check: dict) -> dict:
    passed = "yes" if check["passed"] else "NO"
    return {"check": check["name"], "passed": passed, "measured": f"{check['measured']:.3g}",
            "limit": f"{check['limit']:.3g}", "unit": check["unit"]}  # fmt: skip


CHECKS = Step(
    "implementation.checks", "Prove the parts of the model", check_components, lambda run: machine(),
    needs=("environment.device",),
    code=("flows.phases.implementation", "nanogpt/model/", "nanogpt/study/component_checks.py"),
)  # fmt: skip
STEPS = [CHECKS]
