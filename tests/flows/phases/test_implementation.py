"""Phase 2: checks that measure too much on an accelerator leave it for the CPU."""

import json
import threading

import pytest

from flows.full_run import PHASES
from flows.ledger.facts import DEVICE
from flows.phases import implementation
from nanogpt.native.c_source import CSource
from nanogpt.results import ComponentCheck
from tests.flows.parts import StandInWorker, assembled, finish, proof

pytestmark = pytest.mark.fast


def check(passed: bool) -> ComponentCheck:
    return ComponentCheck("gradient parity", passed, measured=0.5, limit=0.01, unit="", explanation="")


def test_a_check_that_measures_too_much_is_a_failure_of_the_device(tmp_path):
    worker = StandInWorker(lambda name, arguments: [check(passed=arguments["device"] == "cpu")])
    run = assembled(tmp_path, PHASES, worker)
    finish(run, DEVICE, proof("mps"))
    facts = implementation.check_components(run).facts
    assert (facts.device, facts.fell_back, facts.fell_back_from) == ("cpu", True, "mps")
    assert "gradient parity (measured 0.5, limit 0.01)" in facts.warning
    checks = json.loads((run.paths.state / "component_checks.json").read_text())
    assert [check["passed"] for check in checks] == [True]


@pytest.mark.parametrize(("arguments", "is_built"), [([], True), (["--set", "device.kernels=torch"], False)])
def test_the_kernels_are_built_next_to_the_checks(tmp_path, monkeypatch, arguments, is_built):
    """Whoever measures or trains after them finds them built."""
    quick = tmp_path / "quick.c"
    quick.write_text("int panel(void) { return 7; }\n")
    monkeypatch.setenv("NANOGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(implementation.kernels, "SOURCE", CSource(quick, "quick", seconds=1))
    built = threading.Event()

    def answer(name, of_check):
        built.wait(60 if is_built else 0.5)
        return [check(passed=True)]

    run = assembled(tmp_path, PHASES, StandInWorker(answer), *arguments)
    monkeypatch.setattr(run.journal, "log", lambda *line: built.set() if "Building the quick" in line[0] else None)
    finish(run, DEVICE, proof("cpu"))
    implementation.implementation(run)
    assert built.is_set() == is_built


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_without_a_compiler_the_log_says_why_there_are_none(tmp_path, monkeypatch, device):
    monkeypatch.setenv("CC", str(tmp_path / "absent"))
    run = assembled(tmp_path, PHASES, StandInWorker())
    finish(run, DEVICE, proof(device))
    implementation.build_kernels_meanwhile(run).join()
    log = run.paths.logs / "automation_log.txt"
    said = log.read_text() if log.exists() else ""
    assert ("no kernels: no C compiler" in said) == (device == "cpu")


def test_checks_that_pass_settle_on_the_accelerator(tmp_path):
    run = assembled(tmp_path, PHASES, StandInWorker(lambda name, arguments: [check(passed=True)]))
    finish(run, DEVICE, proof("mps"))
    facts = implementation.check_components(run).facts
    assert (facts.device, facts.fell_back, facts.warning) == ("mps", False, "")
