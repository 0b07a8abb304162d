"""Phase 2: checks that measure too much on an accelerator leave it for the CPU."""

import json

import pytest

from flows.full_run import PHASES
from flows.ledger.facts import DEVICE
from flows.phases import implementation
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


def test_checks_that_pass_settle_on_the_accelerator(tmp_path):
    run = assembled(tmp_path, PHASES, StandInWorker(lambda name, arguments: [check(passed=True)]))
    finish(run, DEVICE, proof("mps"))
    facts = implementation.check_components(run).facts
    assert (facts.device, facts.fell_back, facts.warning) == ("mps", False, "")
