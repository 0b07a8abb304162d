"""Phase 2: checks that measure too much on an accelerator leave it for the CPU."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from flows.full_run import PHASES
from flows.ledger.facts import CHECKS, DEVICE
from flows.phases import implementation
from flows.runner.run import Run
from nanogpt.native.c_source import CSource
from nanogpt.results.machine import ComponentCheck
from tests.flows.parts import RecordingDisplay, StandInWorker, assembled, finish, proof

pytestmark = pytest.mark.fast


def check(passed: bool) -> ComponentCheck:
    return ComponentCheck("gradient parity", passed, measured=0.5, limit=0.01, unit="", explanation="")


def test_a_check_that_measures_too_much_is_a_failure_of_the_device(tmp_path):
    worker = StandInWorker(lambda name, arguments: [check(passed=arguments["device"] == "cpu")])
    run = assembled(tmp_path, PHASES, worker)
    finish(run, DEVICE, proof("mps"))
    facts = implementation.check_components(run).facts
    assert facts.device == "cpu"
    assert "gradient parity (measured 0.5, limit 0.01)" in facts.warning
    checks = json.loads((run.paths.state / "component_checks.json").read_text())
    assert [check["passed"] for check in checks] == [True]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Where kernels are built that take no seconds."""
    quick = tmp_path / "quick.c"
    quick.write_text("int panel(void) { return 7; }\n")
    monkeypatch.setenv("NANOGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(implementation.kernels, "SOURCE", CSource(quick, "quick", seconds=1))
    return tmp_path / "cache"


def notes_of(run: Run) -> list[str]:
    run.journal.display = RecordingDisplay()
    return run.journal.display.notes


@pytest.mark.parametrize("arguments, is_built", [
    ([], True), (["--set", "device.kernels=torch"], False), (["--set", "device.compile=true"], False),
    (["--set", "device.mixed_precision=float16"], False),
])  # fmt: skip
def test_the_kernels_are_built_before_anything_is_timed_and_a_person_is_told(tmp_path, cache, arguments, is_built):
    """A compiler next to the checks would make the machine look slow, and next to phase 3 the models."""
    run = assembled(tmp_path, PHASES, StandInWorker(), *arguments)
    finish(run, DEVICE, proof("cpu"))
    run.ledger.start = Mock(side_effect=RuntimeError("the first step begins"))
    notes = notes_of(run)
    with pytest.raises(RuntimeError, match="the first step begins"):
        implementation.implementation(run)
    building = "Building the quick for this processor (once, about 1 s)…"
    assert [text for _, text in notes if "quick" in text] == [building] * is_built
    assert len(list(cache.glob("*.so"))) == is_built


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_without_a_compiler_a_person_is_told_why_there_are_none(tmp_path, cache, monkeypatch, device):
    monkeypatch.setenv("CC", str(tmp_path / "absent"))
    run = assembled(tmp_path, PHASES, StandInWorker(lambda name, arguments: [check(passed=True)]))
    finish(run, DEVICE, proof(device))
    notes = notes_of(run)
    implementation.implementation(run)
    assert [level for level, text in notes if "no kernels: no C compiler" in text] == ["warning"] * (device == "cpu")
    assert run.facts(CHECKS).passed == 1


def test_checks_that_pass_settle_on_the_accelerator(tmp_path):
    run = assembled(tmp_path, PHASES, StandInWorker(lambda name, arguments: [check(passed=True)]))
    finish(run, DEVICE, proof("mps"))
    facts = implementation.check_components(run).facts
    assert (facts.device, facts.warning) == ("mps", "")
