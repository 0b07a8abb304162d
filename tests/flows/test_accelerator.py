"""An accelerator that fails beside training: once more, then the CPU, for good, and the person is told each time."""

import json

import pytest
from flows.machine.worker import WorkerDied, WorkerTimedOut

from flows.context.options import parse
from flows.display.plain import PlainDisplay
from flows.ledger.ledger import Outcome, Step
from flows.machine import accelerator
from flows.phases import environment, implementation
from flows.runner.run import Run
from nanogpt import durable

pytestmark = pytest.mark.fast
ASSERTION = "its process died; last words: failed assertion `commit an already committed command buffer'"


class Worker:
    """Answers with `answer(target, arguments)`; knows how often its process was ended."""

    def __init__(self, answer):
        self.answer, self.asked, self.ended, self.words = answer, [], 0, ""

    def call(self, target, *, timeout, **arguments):
        assert 0 < timeout < 1000  # whoever hangs must not hold the run
        self.asked.append(arguments.get("device", arguments.get("asked")))
        return self.answer(target, arguments)

    def said(self):
        return self.words

    def close(self, kill=False):
        self.ended += kill


@pytest.fixture
def start(tmp_path):
    def start(answer, proved: str = "mps") -> Run:
        run = Run(parse(["--workspace", str(tmp_path)]))
        run.display, run.worker = PlainDisplay(), Worker(answer)
        for name, facts in (("environment.system", {}), ("environment.device", {"device": proved})):
            step = Step(name, name, lambda run: Outcome())
            run.ledger.start(step, {}, "never run")
            run.ledger.finish(step, Outcome(facts=facts), seconds=1.0)
            run.finished_steps.add(name)
        return run

    return start


def failing(error: Exception, times: int = 100):
    """An answer that raises `error` on anything but the CPU, the first `times` times."""
    left = [times]

    def answer(target, arguments):
        if arguments.get("device", arguments.get("asked")) != "cpu" and left[0]:
            left[0] -= 1
            raise error
        return [{"passed": True, "name": "a", "measured": 0.0, "limit": 1.0, "unit": ""}]

    return answer


@pytest.mark.parametrize(
    "error",
    [WorkerDied(ASSERTION), WorkerTimedOut("no answer within 180 s"), NotImplementedError("not for the MPS device"),
     TypeError("Cannot convert a MPS Tensor to float64")],
)  # fmt: skip
def test_what_fails_twice_is_left_for_the_cpu_in_this_session_and_the_next(start, error):
    run = start(failing(error))
    assert implementation.check_components(run).facts["device"] == "cpu"
    assert run.worker.asked == ["mps", "mps", "cpu"] and run.worker.ended == 2
    assert [row["remedy"] for row in run.remedies] == [accelerator.ONCE_MORE, accelerator.CPU]
    assert all(str(error) in row["evidence"] and row["symptom"] == "device" for row in run.remedies)
    told = (run.paths.logs / "automation_log.txt").read_text()
    assert told.count(str(error)) == 2 and "go on with the CPU" in told
    again = start(failing(error))
    assert implementation.check_components(again).facts["device"] == "cpu"
    assert again.worker.asked == ["cpu"] and not again.remedies


def test_what_fails_once_stays_on_the_accelerator(start):
    run = start(failing(WorkerDied(ASSERTION), times=1))
    facts = implementation.check_components(run).facts
    assert facts["device"] == "mps" and not facts["fell_back"] and run.worker.asked == ["mps", "mps"]
    assert not accelerator.reason_given_up(run)


def test_a_check_that_measures_too_much_is_a_failure_of_the_device(start):
    def answer(target, arguments):
        passed = arguments["device"] == "cpu"
        return [{"passed": passed, "name": "gradient parity", "measured": 0.5, "limit": 0.01, "unit": ""}]

    run = start(answer)
    facts = implementation.check_components(run).facts
    assert facts["fell_back_from"] == "mps" and "gradient parity (measured 0.5, limit 0.01)" in facts["warning"]
    checks = json.loads((run.paths.state / "component_checks.json").read_text())
    assert [check["passed"] for check in checks] == [True]


def test_a_line_on_stderr_alone_means_that_the_numbers_are_wrong(start):
    run = start(failing(WorkerDied(ASSERTION), times=0))
    run.worker.words = "Warning: something\nError: command buffer exited with error status.\n\tThe Metal ..."
    assert implementation.check_components(run).facts["device"] == "cpu"
    assert run.worker.asked == ["mps", "mps", "cpu"]
    assert "command buffer exited with error status" in run.remedies[0]["evidence"]


def test_the_cpu_has_nobody_to_fall_back_on(start):
    def answer(target, arguments):
        raise WorkerDied("its process died")

    run = start(answer, proved="cpu")
    with pytest.raises(WorkerDied):
        implementation.check_components(run)
    assert run.worker.asked == ["cpu"] and not run.remedies


def test_a_proof_that_kills_its_process_proves_the_cpu_alone_and_a_new_proof_forgives(start):
    def answer(target, arguments):
        if arguments["asked"] != "cpu":
            raise WorkerDied(ASSERTION)
        return {"device": "cpu", "asked": "cpu", "warning": "", "candidates": []}

    run = start(answer)
    facts = environment.check_device(run).facts
    assert facts["device"] == "cpu" and facts["asked"] == "auto" and ASSERTION in facts["warning"]
    assert facts["candidates"][0]["works"] is False
    assert run.worker.asked == ["auto", "auto", "cpu"]
    environment.check_device(run)
    assert run.worker.asked[3:] == ["auto", "auto", "cpu"]


def test_a_rotten_note_still_means_the_cpu(start):
    run = start(failing(WorkerDied(ASSERTION)))
    durable.write_text(run.paths.state / "device.json", "{")
    assert accelerator.device_of(run, "mps") == "cpu"
