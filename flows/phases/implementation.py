"""Phase 2: the library is proved on the chosen device before hours are spent on it."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import version

from flows.ledger.facts import CHECKS, DEVICE, FETCHED, SURVEYED, Checks
from flows.ledger.steps import Json, StepResult
from flows.runner.run import AnyStep, Phase, Run, Step
from flows.runner.step_runner import Blocked
from nanogpt import durable
from nanogpt.kernels import source as kernels
from nanogpt.kernels.conditions import kernels_wanted
from nanogpt.machine import processor_name
from nanogpt.native.unavailable import Unavailable
from nanogpt.records import to_json
from nanogpt.results.machine import ComponentCheck

PATIENCE = 180.0  # seconds, for checks of two: a device that hangs


def implementation(run: Run) -> None:
    if not run.would_keep(CHECKS):
        with suppress(Blocked):  # as the checks will be
            build_kernels(run, run.facts(DEVICE).device)
    run.do(CHECKS)


def build_kernels(run: Run, device: str) -> None:
    """On a new machine a compiler works for 7 s. It disturbs nothing that is timed before the first step: next to it
    the checks, by which the plan knows a slow machine, took three times as long on one core and 1.6 times on two."""
    settings = [config.device for config in run.options.candidates]
    if not any(kernels_wanted(wanted, device, str(wanted.mixed_precision)) for wanted in settings):
        return
    try:
        kernels.SOURCE.load(run.journal.message)
    except Unavailable as reason:
        run.journal.message(f"no kernels: {reason}", "warning")


def check_components(run: Run) -> StepResult[Checks]:
    """Every component check; a failure on an accelerator falls back to the CPU, on the CPU it stops the run."""
    proved = run.facts(DEVICE).device
    checks = run.accelerator.run_on(proved, CHECKS.step, lambda device: _passed_on(run, device))
    device = run.accelerator.current(proved)
    file = run.paths.state / "component_checks.json"
    durable.write_json(file, [to_json(check) for check in checks])
    facts = Checks(
        device=device,
        passed=len(checks),
        failed=0,
        checks=checks,
        warning=f"{run.accelerator.reason_given_up()}; continuing with the CPU" if device != proved else "",
    )
    run.journal.display.table("component-checks", [_row(check) for check in checks], "Component checks")
    return StepResult(facts, [file], identity={"device": device})


def _passed_on(run: Run, device: str) -> list[ComponentCheck]:
    """The checks, all of which passed. Raises RuntimeError naming those that did not."""
    checks: list[ComponentCheck] = run.worker.call(
        "nanogpt.study.component_checks:run_checks", device=device, timeout=PATIENCE
    )
    failed = [check for check in checks if not check.passed]
    if not failed:
        return checks
    durable.write_json(run.paths.state / "component_checks.json", [to_json(check) for check in checks])
    named = ", ".join(f"{check.name} (measured {check.measured:.3g}, limit {check.limit:.3g})" for check in failed)
    raise RuntimeError(
        f"{len(failed)} of {len(checks)} component checks failed on the {device}: {named}; "
        "the library does not compute what it should on this machine"
    )


def _row(check: ComponentCheck) -> dict[str, str]:
    return {
        "check": check.name,
        "passed": "yes" if check.passed else "NO",
        "measured": f"{check.measured:.3g}",
        "limit": f"{check.limit:.3g}",
        "unit": check.unit,
    }


def _settings(run: Run) -> Json:
    return {"processor": processor_name(), "torch": version("torch")}


STEPS: list[AnyStep] = [
    Step(
        key=CHECKS,
        title="Check the parts of the model",
        work=check_components,
        settings=_settings,
        needs=("environment.device",),
        code=(
            "flows/phases/implementation.py",
            "nanogpt/study/component_checks.py",
            "nanogpt/kernels/**",
            "nanogpt/model/**",
            "nanogpt/training/update/gradients.py",
            "nanogpt/training/update/muon.py",
            "nanogpt/training/update/newton_schulz.py",
            "nanogpt/training/update/optimizer.py",
            "nanogpt/weights/checkpoint.py",
            "nanogpt/weights/manifest.py",
            "nanogpt/decoders/affine.py",
            "nanogpt/decoders/protocol.py",
            "nanogpt/decoders/torch_decoder.py",
            "nanogpt/decoders/recorded_step.py",
            "nanogpt/decoders/torch_step.py",
        ),
    )
]
# The network is idle while the processor proves the model.
PHASE = Phase("implementation", implementation, lambda wanted: STEPS, prefetch=(SURVEYED, FETCHED))
