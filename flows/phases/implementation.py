"""Phase 2: the library is proved on the chosen device before hours are spent on it."""

from __future__ import annotations

from flows.ledger.ledger import Outcome, Step
from flows.machine import accelerator
from flows.phases.environment import machine
from flows.runner.run import Run
from nanogpt import durable

CHECK_PATIENCE = 180.0  # seconds, for checks of two: a device that hangs


def implementation(run: Run) -> None:
    run.do(CHECKS)


def check_components(run: Run) -> Outcome:
    """Every component check; a failure on an accelerator falls back to the CPU, on the CPU it stops the run."""
    proved = run.facts("environment.device")["device"]
    checks = accelerator.on_device(run, "implementation.checks", lambda device: _passed_on(run, device), proved)
    device = accelerator.device_of(run, proved)
    file = run.paths.state / "component_checks.json"
    durable.write_json(file, checks)
    warning = f"{accelerator.reason_given_up(run)}; going on with the CPU" if device != proved else ""
    facts = {
        "device": device, "passed": len(checks), "failed": 0, "checks": checks, "fell_back": device != proved,
        "warning": warning,
    }  # fmt: skip
    if device != proved:
        facts["fell_back_from"] = proved
    run.display.table("component-checks", [_row(check) for check in checks], "Component checks")
    return Outcome([file], facts, identity={"device": device})


def _passed_on(run: Run, device: str) -> list[dict]:
    """The checks, all of which passed. Raises RuntimeError naming those that did not."""
    checks = run.worker.call("nanogpt.study.component_checks:run_checks", device=device, timeout=CHECK_PATIENCE)
    failed = [check for check in checks if not check["passed"]]
    if not failed:
        return checks
    durable.write_json(run.paths.state / "component_checks.json", checks)
    named = ", ".join(f"{check['name']} (measured {check['measured']:.3g}, limit {check['limit']:.3g})"
                      for check in failed)  # fmt: skip
    raise RuntimeError(f"{len(failed)} of {len(checks)} component checks failed on the {device}: {named}; "
                       "the library does not compute what it should on this machine")  # fmt: skip


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
