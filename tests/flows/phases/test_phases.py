"""What phases do when things are not as planned: part of the ladder, no plan, no network, a figure that fails."""

import json

import pytest

from flows.context.options import CHECKOUT, parse
from flows.display.plain import PlainDisplay
from flows.ledger.ledger import Outcome, Step
from flows.phases import dataset, documentation, evaluation, steps_of, training
from flows.runner.run import Run
from flows.supervision import recovery as treatment
from flows.supervision import trainer_watch as watching
from nanogpt import durable
from nanogpt.config import load_config, save_config
from nanogpt.data import sources

pytestmark = pytest.mark.fast

LADDER = ["--set", "ladder=[micro, tiny_model]", "--set", "milestones=false"]


@pytest.fixture
def start(tmp_path):
    def start(*arguments: str) -> Run:
        run = Run(parse(["--workspace", str(tmp_path), *LADDER, *arguments]))
        run.display = PlainDisplay()
        return run

    return start


def finish(run: Run, name: str, facts: dict) -> None:
    step = Step(name, name, lambda run: Outcome())
    run.ledger.start(step, {}, "never run")
    run.ledger.finish(step, Outcome(facts=facts), seconds=1.0)


def test_a_model_that_could_not_be_trained_is_no_reason_not_to_judge_the_others(start):
    run = start()
    run.finished_steps = {"training.micro"}
    assert evaluation.models_step(evaluation._trained(run)).needs == ("training.micro",)
    run.finished_steps = set()
    assert evaluation.models_step(evaluation._trained(run)).needs == ("training.micro", "training.tiny_model")


def test_nothing_is_trained_by_a_plan_of_the_past(start):
    run = start()
    finish(run, "configuration.plan", {"ladder": [{"name": "micro"}]})
    run.phase("training", training.training)  # this session's configuration phase has failed
    assert run.phases[4].status == "blocked" and run.phases[4].cause == "configuration.plan has not finished"


@pytest.mark.parametrize("redo", [True, False])
def test_redo_trains_from_the_beginning_and_keeps_what_there_was(start, monkeypatch, redo):
    run = start(*(["--redo", "training.micro"] if redo else []))
    save_config(load_config(CHECKOUT / "configs/micro.yaml"), run.paths.configs / "micro.yaml")
    folder = run.paths.checkpoints / "micro"
    durable.write_text(folder / "metrics.jsonl", "{}\n")

    def train(self):
        raise RuntimeError("comes to the training")

    monkeypatch.setattr(treatment.Treatment, "until_it_ends", train)
    with pytest.raises(RuntimeError, match="comes to the training"):
        training.train_model(run, "micro")
    assert folder.exists() is not redo
    assert (folder.with_name("micro.previous") / "metrics.jsonl").exists() is redo


def test_a_training_that_leaves_no_best_weights_says_so(start, monkeypatch):
    run = start()
    save_config(load_config(CHECKOUT / "configs/micro.yaml"), run.paths.configs / "micro.yaml")
    monkeypatch.setattr(treatment.Treatment, "until_it_ends", lambda self: None)
    with pytest.raises(RuntimeError, match=r"micro/best is missing: .* --redo training.micro"):
        training.train_model(run, "micro")


def test_what_an_attempt_lost_is_counted_from_its_own_checkpoints(start):
    run = start()
    config = load_config(CHECKOUT / "configs/micro.yaml")
    checkpoints = run.paths.checkpoints / "micro" / "checkpoints"
    (checkpoints / "step-00000100").mkdir(parents=True)
    (checkpoints / "step-00000400.bad").mkdir()
    progress = watching.Progress(run, config, checkpoints.parent)
    assert (progress.steps_lost(), progress.saved_steps()) == (0, 0)
    progress({"step": 150, "max_iters": 1000})
    assert (progress.steps_lost(), progress.saved_steps()) == (50, 0)
    wasted = progress.lost_seconds()
    (checkpoints / "step-00000140").mkdir()
    assert (progress.steps_lost(), progress.saved_steps()) == (10, 40)
    assert 0 < progress.lost_seconds() < max(wasted, 1.0)


@pytest.mark.parametrize("kept, micro_batch", [
    (None, 12), ({"micro_batch": 3, "batch_size": 12}, 3), ({"micro_batch": 3, "batch_size": 24}, 12), ("{half", 12),
])  # fmt: skip
def test_a_run_that_starts_again_knows_the_micro_batch_that_fitted(start, kept, micro_batch):
    """Unless the setting has changed since: then the person's word is newer than the remedy."""
    run = start()
    folder = run.paths.checkpoints / "micro"
    for step in (100, 200):
        manifest = folder / f"checkpoints/step-{step:08d}/manifest.json"
        if kept is not None:
            settled = {"micro_batch": 12, "batch_size": 12} if step == 100 else kept
            durable.write_text(manifest, kept if kept == "{half" else json.dumps({"facts": settled}))
    assert treatment._micro_batch(load_config(CHECKOUT / "configs/micro.yaml"), folder) == micro_batch


def test_a_plot_that_fails_does_not_stop_the_training(start, monkeypatch):
    def fail(folder):
        raise ValueError("no room for the axes")

    run = start()
    monkeypatch.setattr(watching, "draw_loss", fail)
    monkeypatch.setattr(watching, "PLOT_SECONDS", 0.0)
    progress = watching.Progress(run, load_config(CHECKOUT / "configs/micro.yaml"), run.paths.checkpoints / "micro")
    progress({"step": 1, "max_iters": 10})
    assert "no room for the axes" in (run.paths.logs / "automation_log.txt").read_text()


def test_the_report_does_not_tell_of_the_past_where_a_phase_failed(start):
    run = start()
    finish(run, "training.micro", {"best_val_loss": 1.8})
    assert documentation._facts(run, "training.micro") == {"best_val_loss": 1.8}  # --only documentation
    run.phases[4].status, run.phases[4].cause = "blocked", "dataset.clean has not finished"
    assert documentation._facts(run, "training.micro") == {}
    run.finished_steps.add("training.micro")  # and a later one of the phase failed
    assert documentation._facts(run, "training.micro") == {"best_val_loss": 1.8}


def test_a_figure_that_cannot_be_drawn_does_not_cost_the_report(start, monkeypatch):
    def draw(run):
        raise ValueError("no such colour")

    def write(run):
        durable.write_text(run.paths.reports / "training_report.md", "# Report")
        return Outcome(facts={"criteria": []})

    needs = ("training.micro",)  # which has not finished
    made = [Step("documentation.figures", "Draw", draw, needs=needs, regardless=True),
            Step("documentation.report", "Write", write, needs=needs, regardless=True)]  # fmt: skip
    monkeypatch.setattr("flows.phases.steps_of", lambda models, tests=True: made)
    run = start()
    run.phase("documentation", documentation.documentation)
    assert (run.paths.reports / "training_report.md").exists()
    assert run.phases[7].status == "failed" and run.phases[7].cause == "no such colour"


def test_the_embedded_corpus_is_not_passed_off_as_what_was_asked_for(start, tmp_path, monkeypatch):
    text = tmp_path / "embedded.txt"
    text.write_text("help()\n" * 100)
    fetched = sources.Fetched([text], "embedded", "0" * 64, 700, "tiny_shakespeare could not be had")
    monkeypatch.setattr(sources, "fetch", lambda *arguments, **options: fetched)
    facts = dataset.fetch_text(start("--data", "tiny_shakespeare")).facts
    assert facts["source"] == "embedded" and "PSF" in facts["licence"]
    monkeypatch.setattr(sources, "fetch", lambda *arguments, **options: sources.Fetched([text], "url", "0" * 64, 700))
    facts = dataset.fetch_text(start("--data", "tiny_shakespeare")).facts
    assert facts["source"] == "tiny_shakespeare" and facts["licence"] == "public domain"


def test_a_mirror_named_later_fetches_again(start, tmp_path):
    """What the guide tells a person to do after a start without network."""
    without, named = start(), start("--set", f"data.mirror={tmp_path}")
    assert dataset.FETCH.settings(without) != dataset.FETCH.settings(named)


def test_tests_that_are_not_wanted_are_no_step(start):
    assert "evaluation.tests" in [step.name for step in start().steps()]
    assert "evaluation.tests" not in [step.name for step in start("--set", "tests=false").steps()]
    assert "evaluation.tests" not in steps_of(["micro"], tests=False)[-1].needs


def test_tests_that_take_too_long_are_told_and_cost_no_phase(start, tmp_path, monkeypatch):
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\necho '....... [ 12%]'\nexec sleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setattr(evaluation.sys, "executable", str(slow))
    monkeypatch.setattr(evaluation, "TEST_SECONDS", 0.3)
    run = start()
    facts = evaluation.run_fast_tests(run).facts
    assert facts["timed_out"] and (facts["passed"], facts["failed"]) == (0, 0) and "12%" in facts["tail"]
    assert "12%" in (run.paths.logs / "tests.log").read_text()
    assert "were stopped after" in (run.paths.logs / "automation_log.txt").read_text()
