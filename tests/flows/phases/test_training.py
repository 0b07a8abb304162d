"""Phase 5 where a model does not fit into memory: planned again without it, what is trained stays."""

import pytest

from flows.context.paths import CHECKOUT
from flows.ledger.facts import MEASURED, PLANNED, Measured, Planned, Trained, trained
from flows.ledger.steps import StepResult
from flows.phases import training
from flows.planning import site
from flows.planning.memory_limits import MemoryLimits
from flows.runner.run import Phase, Run, Step
from flows.supervision.recovery import DoesNotFit
from nanogpt.config import load_config, save_config
from tests.flows.parts import SITE, assembled, finish_beginning, outcome, plan

pytestmark = pytest.mark.fast


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A run with a plan for the named models; a new plan is one of what is not remembered to be too large."""

    monkeypatch.setattr(site, "memory_bytes", lambda: SITE.memory_bytes)

    def planned(*names: str, fits: set[str]) -> Run:
        def too_large(run: Run) -> dict:
            return {"too_large": sorted(run.limits.too_large(run.options.candidates, SITE))}

        def make_plan(run: Run) -> StepResult[Planned]:
            left = [name for name in names if name not in too_large(run)["too_large"]]
            if not left:
                raise RuntimeError("no model fits into memory")
            for name in left:
                config = load_config(CHECKOUT / f"configs/{name}.yaml").with_changes({"data.tokenizer": "bpe"})
                save_config(config, run.paths.config(name))
            return StepResult(plan(*left))

        def train(name: str) -> StepResult[Trained]:
            if name not in fits:
                raise DoesNotFit(name, "micro-batch 1, windows of 16: DefaultCPUAllocator: can't allocate memory")
            of_run = {"folder": "", "predicted_seconds": 1.0, "expected_bits_per_byte": 2.0, "remedies": []}
            return StepResult(Trained(**vars(outcome()), **of_run))

        def train_step(name: str) -> Step[Trained]:
            return Step(key=trained(name), title=f"Train {name}", work=lambda run: train(name),
                        settings=lambda run: training._settings(run, name))  # fmt: skip

        measure = Step(key=MEASURED, title="", work=lambda run: StepResult(Measured({}, {})), settings=too_large)
        steps = [measure, Step(key=PLANNED, title="", work=make_plan, settings=too_large)]
        configuration = Phase("configuration", lambda run: None, lambda wanted: steps)
        phase = Phase("training", training.training, lambda wanted: [train_step(name) for name in wanted.models])
        run = assembled(tmp_path, [configuration, phase], None, "--set", f"ladder=[{', '.join(names)}]")
        finish_beginning(run)
        run.do(PLANNED)
        return run

    return planned


def test_where_a_model_does_not_fit_a_new_plan_is_made_and_what_is_trained_is_kept(planned):
    run = planned("micro", "tiny_model", "small_model", fits={"micro", "small_model"})
    run.run_phase(run.phases[1])
    assert run.phase_runner.record("training").status == "done"
    assert run.has_finished(trained("micro")) and run.has_finished(trained("small_model"))
    [row] = [row for row in run.journal.remedies if row.symptom == "out_of_memory"]
    assert (row.step, row.symptom, row.remedy) == ("training.tiny_model", "out_of_memory", "the next smaller model")
    assert "windows of 16" in row.evidence and row.outcome == "now micro, then small_model"
    states = {record.name: record.state for record in run.step_runner.records("training")}
    assert states == {"training.micro": "done", "training.tiny_model": "failed", "training.small_model": "done"}


def test_where_nothing_fits_the_phase_fails_with_the_reason(planned):
    run = planned("micro", fits=set())
    run.run_phase(run.phases[1])
    record = run.phase_runner.record("training")
    assert record.status == "failed" and "no model fits into memory" in record.cause


def test_a_plan_that_cannot_do_without_what_does_not_fit_is_not_tried_forever(planned, monkeypatch):
    run = planned("micro", fits=set())
    monkeypatch.setattr(MemoryLimits, "note", lambda *arguments: None)  # nothing is remembered
    run.run_phase(run.phases[1])
    record = run.phase_runner.record("training")
    assert record.status == "failed" and "there is no other plan" in record.cause
