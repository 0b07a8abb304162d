"""Phase 5 where a model does not fit into memory: planned again without it, what is trained stays."""

import pytest

from flows.context.options import CHECKOUT, parse
from flows.display.plain import PlainDisplay
from flows.ledger.ledger import Outcome, Step
from flows.phases import training
from flows.planning import memory_limits as remembered
from flows.runner.run import Run
from flows.supervision.recovery import DoesNotFit
from nanogpt.config import load_config, save_config

pytestmark = pytest.mark.fast

TEXT = {"bytes": 10**9, "characters": 10**9, "alphabet_size": 65}


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A run with a plan for the named models; a new plan is one of what is not remembered to be too large."""

    def planned(*names: str, fits: set[str]) -> Run:
        ladder = f"ladder=[{', '.join(names)}]"
        run = Run(parse(["--workspace", str(tmp_path), "--set", ladder, "--set", "milestones=false"]))
        run.display = PlainDisplay()
        for name, facts in {"dataset.fetch": TEXT, "implementation.checks": {"device": "cpu"}}.items():
            finish(run, name, facts)
            run.finished_steps.add(name)

        def plan(run: Run) -> None:
            left = [name for name in names if name not in remembered.too_large(run, run.options.rungs)]
            for name in left:
                config = load_config(CHECKOUT / f"configs/{name}.yaml").with_changes({"data.tokenizer": "bpe"})
                save_config(config, run.paths.configs / f"{name}.yaml")
            finish(run, "configuration.plan", {"ladder": [{"name": name} for name in left]})
            run.finished_steps.add("configuration.plan")
            if not left:
                raise RuntimeError("no model fits into memory")

        def train(run: Run, name: str) -> Outcome:
            if name not in fits:
                raise DoesNotFit(name, "micro-batch 1, windows of 16: DefaultCPUAllocator: can't allocate memory")
            return Outcome(facts={"best_val_loss": 1.8, "step": 1, "parameters": 1, "tokens": 1, "seconds": 1.0})

        monkeypatch.setattr(training, "plan_again", plan)
        monkeypatch.setattr(training, "step", lambda name: Step(f"training.{name}", name, lambda run: train(run, name)))
        monkeypatch.setattr(training, "_settings", lambda run, name: {})
        plan(run)
        return run

    return planned


def test_where_a_model_does_not_fit_the_run_goes_on_with_a_new_plan_and_keeps_what_is_trained(planned):
    run = planned("micro", "tiny_model", "small_model", fits={"micro", "small_model"})
    run.phase("training", training.training)
    assert run.phases[4].status == "done"
    assert {"training.micro", "training.small_model"} <= run.finished_steps
    [row] = run.remedies
    assert (row["step"], row["symptom"], row["remedy"]) == (
        "training.tiny_model", "out_of_memory", "the next smaller model"
    )  # fmt: skip
    assert "windows of 16" in row["evidence"] and row["outcome"] == "now micro, then small_model"
    states = {step["name"]: step["state"] for step in run.phases[4].steps}
    assert states == {"training.micro": "done", "training.tiny_model": "failed", "training.small_model": "done"}


def test_where_nothing_fits_the_phase_fails_with_the_reason(planned):
    run = planned("micro", fits=set())
    run.phase("training", training.training)
    assert run.phases[4].status == "failed" and "no model fits into memory" in run.phases[4].cause


def test_a_plan_that_cannot_do_without_what_does_not_fit_is_not_tried_for_ever(planned, monkeypatch):
    run = planned("micro", fits=set())
    monkeypatch.setattr(remembered, "note", lambda *arguments: None)  # nothing is remembered
    run.phase("training", training.training)
    assert run.phases[4].status == "failed" and "could not be planned without" in run.phases[4].cause


def finish(run: Run, name: str, facts: dict) -> None:
    step = Step(name, name, lambda run: Outcome())
    run.ledger.start(step, {}, "never run")
    run.ledger.finish(step, Outcome(facts=facts), seconds=1.0)
