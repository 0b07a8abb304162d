"""A run begun by the code before the rooms (commit 0ed0cda) continues: its files are read, what it trained is kept.

begun_by_old_code.tar.gz has what that code really left: killed while it trained, continued until its export failed, and
killed again while it judged the model.
"""

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from flows.cli.command_line import parse
from flows.full_run import PHASES
from flows.ledger.facts import (
    BYTE_PAIRS,
    CHARACTERS,
    CHECKS,
    CLEANED,
    EVALUATED,
    EXPORTED,
    FETCHED,
    MEASURED,
    PLANNED,
    trained,
)
from flows.report import documents
from flows.report.facts import collect
from flows.runner.assembly import assemble
from flows.runner.run import Run
from flows.runner.sessions import read_session
from flows.supervision.model_files import ModelFiles
from nanogpt import durable
from nanogpt.results.training import TrainingOutcome

pytestmark = pytest.mark.fast

PACKED = Path(__file__).with_name("begun_by_old_code.tar.gz")
WHERE_IT_RAN = Path("/tmp/b/h8_oldrun")  # its text was named by that path
SMALL = trained("small")
DATASET = (FETCHED, CLEANED, CHARACTERS, BYTE_PAIRS)


@pytest.fixture
def workspace(tmp_path) -> Path:
    with tarfile.open(PACKED) as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path


def start(workspace: Path) -> Run:
    """What a start of the new code sees, with the text where it is now."""
    config = workspace / "state/default/configs/small.yaml"
    settings = [word for name in ("milestones=false", "tests=false") for word in ("--set", name)]
    arguments = ["--workspace", str(workspace), "--config", str(config), "--data", str(workspace / "text.txt")]
    return assemble(parse([*arguments, "--budget", "10m", *settings], PHASES), PHASES)


def as_it_was_asked(run: Run) -> Run:
    """The same, with the text at the path by which the old run knew it."""
    data = run.config.data.model_copy(update={"source": str(WHERE_IT_RAN / "text.txt")})
    return replace(run, options=replace(run.options, config=run.config.model_copy(update={"data": data})))


def test_the_session_is_continued(workspace):
    state = workspace / "state/default"
    assert (read_session(state).state, read_session(state).sessions) == ("running", 3)
    run, spent = start(workspace), durable.read_json(state / "clock.json")["spent_seconds"]
    run.session.begin()
    assert run.session.number == 4 and run.session.started == "2026-11-28 22:36:50"
    assert run.clock.spent >= spent > 60
    [row] = run.journal.remedies
    assert (row.symptom, row.step) == ("interrupted", "evaluation.models")


def test_every_marker_is_believed_and_its_facts_have_their_types(workspace):
    run = start(workspace)
    states = {step.name: marker.state for step in run.steps() if (marker := run.ledger.marker(step.name))}
    assert len(states) == len(list((workspace / "state/default/markers").iterdir())) == 14
    assert states.pop(EVALUATED.step) == "started" and states.pop(EXPORTED.step) == "failed"
    assert set(states.values()) == {"finished"}
    facts = {step.name: run.ledger.facts(step.key) for step in run.steps() if step.name in states}
    assert [name for name, value in facts.items() if value is None] == []
    assert facts[SMALL.step].step == 1500 and facts[PLANNED.step].model("small").max_iters == 1500
    assert run.models() == ["small"]


def test_what_ended_badly_runs_again_and_says_how_it_ended(workspace):
    run = start(workspace)
    judged, exported = (run.step(key) for key in (EVALUATED, EXPORTED))
    assert run.ledger.decide(judged, judged.settings(run)).reason.startswith("interrupted at 2026-11-2")
    failed = run.ledger.decide(exported, exported.settings(run))
    assert failed.reason.startswith("failed at 2026-11-28 22:38:29: [Errno 20] Not a directory")


def test_cheap_steps_run_again_and_what_was_trained_and_planned_is_kept(workspace):
    run = start(workspace)
    before = {key: run.ledger.output_digest(key.step) for key in (FETCHED, CHARACTERS, BYTE_PAIRS, SMALL)}
    for key in DATASET:
        run.do(key)
    assert [record.state for record in run.step_runner.records("dataset")] == ["done"] * 4
    assert {key: run.ledger.output_digest(key.step) for key in before} == before, "the same text and the same tokens"
    assert run.ledger.output_digest(CHECKS.step) == durable.digest({"device": "cpu"}), "as the new step declares it"
    run = as_it_was_asked(run)
    for key in (MEASURED, PLANNED, SMALL):
        step = run.step(key)
        decision = run.ledger.decide(step, step.settings(run))
        assert decision.keep and decision.reason.startswith("made by older code of "), (key.step, decision.reason)


def test_an_old_training_whose_weights_are_damaged_is_not_kept(workspace):
    weights = workspace / "checkpoints/default/small/best/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    run = start(workspace)
    for key in DATASET:
        run.do(key)
    step = run.step(SMALL)
    assert "best/model.safetensors is 1 byte short" in run.ledger.decide(step, step.settings(run)).damage


def test_remedies_of_all_old_sessions_are_in_the_report(workspace):
    rows = durable.read_json(workspace / "state/default/remedies.json")["remedies"]
    run = start(workspace)
    assert [row.symptom for row in run.journal.past_remedies] == [row["symptom"] for row in rows]
    run.step_runner.finished.update((SMALL.step, PLANNED.step))
    facts = collect(run)
    assert [row.evidence for row in facts.remedies] == [row["evidence"] for row in rows]
    documents.render(facts, workspace / "reports/default", {})
    report = (workspace / "reports/default/training_report.md").read_text()
    assert "**small** has the lowest validation loss, 3.1160" in report and "could not be written" not in report
    assert all(documents.markdown.safe(row["evidence"]) in report for row in rows)


def test_the_trainers_folder_is_read(workspace):
    files = ModelFiles(workspace / "checkpoints/default/small")
    outcome = files.outcome()
    assert isinstance(outcome, TrainingOutcome) and (outcome.status, outcome.step) == ("finished", 1500)
    assert files.heartbeat().step == 1500 and files.last_logged_step() == 1500 and files.saved_step() == 1500
    assert files.settled_micro_batch(8) == 8 and files.has_best()
