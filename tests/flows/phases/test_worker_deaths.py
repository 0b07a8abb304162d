"""Workers that die by real signals, or find the disk full, while models are measured or judged: the result stays."""

import pytest

from flows.context.budget_clock import BudgetClock
from flows.context.paths import CHECKOUT
from flows.full_run import PHASES
from flows.ledger.facts import MEASURED, PLANNED, Measured
from flows.phases import evaluation
from flows.runner import assembly
from flows.runner.run import Run
from nanogpt.config import load_config, save_config
from tests.flows.parts import assembled, finish_beginning
from tests.flows.phases.faulty_work import FaultyWorker

pytestmark = pytest.mark.slow


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A run whose worker is a real process that meets these faults."""

    def start(*faults: str, run: str = "default") -> Run:
        (tmp_path / "faults").write_text("".join(f"{fault}\n" for fault in faults))
        monkeypatch.setenv("FAULTS", str(tmp_path / "faults"))
        monkeypatch.setattr(assembly, "Worker", FaultyWorker)
        monkeypatch.setattr(BudgetClock, "spent", 0.0)  # on a busy machine a later plan would have less time
        started = assembled(tmp_path / "workspace", PHASES, None, "--run", run)
        started.paths.logs.mkdir(parents=True)
        finish_beginning(started)
        return started

    return start


def planned(run: Run) -> tuple[Measured, dict[str, bytes]]:
    """What was measured, and the YAML of every model of the plan."""
    try:
        measured, plan = run.do(MEASURED), run.do(PLANNED)
    finally:
        run.worker.close(kill=True)
    return measured, {model.name: run.paths.config(model.name).read_bytes() for model in plan.ladder}


SYMPTOMS = {
    "SIGKILL": "killed", "SIGTERM": "killed", "SIGSEGV": "aborted", "SIGBUS": "aborted",
    "ENOSPC": "disk_full", "ENOSPC in a library": "disk_full", "no room for a checkpoint": "disk_full",
}  # fmt: skip


def test_what_is_no_lack_of_memory_changes_neither_batch_nor_precision_nor_plan(start):
    whole = planned(start(run="whole"))
    faults = list(SYMPTOMS)
    for number in range(0, len(faults), 3):  # each once, in one of the three measurements
        struck = [*faults[number : number + 3], *faults][:3]
        pairs = zip(("choose", "rehearse", "search"), struck, strict=True)
        run = start(*(f"{call} {fault}" for call, fault in pairs), run=f"struck-{number}")
        assert planned(run) == whole
        assert [row.symptom for row in run.journal.remedies] == [SYMPTOMS[fault] for fault in struck]


def test_a_measuring_process_that_dies_again_and_again_fails_its_step_and_the_same_command_continues(start):
    run = start(*["rehearse SIGSEGV"] * 3)
    with pytest.raises(Exception, match="ended by SIGSEGV"):
        planned(run)
    assert run.ledger.marker(MEASURED.step).state == "failed"
    assert planned(run)[0].models["micro"].batch_size == 24


@pytest.mark.parametrize("fault, symptom", [("SIGTERM", "killed"), ("SIGSEGV", "aborted")])
def test_an_evaluation_whose_process_dies_is_made_once_more(start, fault, symptom):
    run = start(f"summarise {fault}")
    save_config(load_config(CHECKOUT / "configs/micro.yaml"), run.paths.config("micro"))
    try:
        facts = evaluation.evaluate_models(run, ["micro"]).facts
    finally:
        run.worker.close(kill=True)
    assert facts.models["micro"].test.loss == 1.5
    [row] = run.journal.remedies
    assert (row.symptom, row.remedy) == (symptom, "once more in a fresh process")
    assert f"summarise: ended by {fault}" in row.evidence
