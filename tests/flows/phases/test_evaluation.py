"""The models that are judged, and the project's own tests."""

import shutil
from types import SimpleNamespace

import pytest

from flows.ledger.facts import CHECKS, EVALUATED, QUALITY, STUDIED, Evaluated, Quality, trained
from flows.phases import evaluation
from flows.runner.run import StepsWanted
from flows.supervision import own_tests
from nanogpt.config import Config, save_config
from nanogpt.data.shards import open_split
from nanogpt.faults import UserError
from nanogpt.records import from_json, to_json
from nanogpt.tokenizers.loading import load_tokenizer
from tests.flows.real_run import real_run
from tests.nanogpt.model_case import randomised, small
from tests.nanogpt.trained_case import lay_down
from tests.nanogpt.training_case import make_data

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("finished, judged", [({"training.micro"}, ["micro"]), (set(), ["micro", "tiny_model"])])
def test_a_model_that_could_not_be_trained_is_no_reason_not_to_judge_the_others(
    tmp_path, monkeypatch, finished, judged
):
    run = real_run(tmp_path)
    monkeypatch.setattr(evaluation, "evaluate_models", lambda run, names: list(names))
    run.step_runner.finished = finished
    step = next(step for step in run.steps() if step.name == "evaluation.models")
    assert step.needs_at_least == "one" and step.needs == (trained("micro").step, trained("tiny_model").step)
    assert step.work(run) == judged


@pytest.mark.parametrize("wanted", [True, False])
def test_tests_that_are_not_wanted_are_no_step(tmp_path, wanted):
    run = real_run(tmp_path, "--set", f"tests={str(wanted).lower()}")
    assert ("evaluation.tests" in [step.name for step in run.steps()]) is wanted
    assert ("evaluation.tests" in run.steps()[-1].needs) is wanted
    assert len(evaluation.steps(StepsWanted(["micro"], wanted, ()))) == 6 + wanted


def test_a_long_run_of_the_tests_shows_that_the_run_is_alive(tmp_path, monkeypatch):
    python, pulses = tmp_path / "python", []
    python.write_text("#!/bin/sh\nprintf '1 failed, '\nsleep 0.5\necho '2 passed'\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(own_tests.sys, "executable", str(python))
    monkeypatch.setattr(own_tests, "SECONDS_BETWEEN_PULSES", 0.05)
    facts = own_tests.run_own_tests(60.0, tmp_path / "log", lambda: pulses.append(True))
    assert len(pulses) > 2 and (facts.passed, facts.failed, facts.timed_out) == (2, 1, False)
    assert (tmp_path / "log").read_text() == "1 failed, 2 passed\n"


def test_tests_that_take_too_long_are_reported_and_cost_no_phase(tmp_path, monkeypatch):
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\necho '....... [ 12%]'\nexec sleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setattr(own_tests.sys, "executable", str(slow))
    monkeypatch.setattr(own_tests, "LEAST_SECONDS", 0.1)
    monkeypatch.setattr(own_tests, "MOST_SECONDS", 0.3)
    run = real_run(tmp_path, "--budget", "10m")
    facts = evaluation.run_fast_tests(run).facts
    assert facts.timed_out and (facts.passed, facts.failed) == (0, 0) and "12%" in facts.tail
    assert "12%" in (run.paths.logs / "tests.log").read_text()
    assert "were stopped after" in (run.paths.logs / "automation_log.txt").read_text()


def test_a_comparison_that_fails_is_recorded_as_failed_and_costs_neither_phase_nor_run(tmp_path, monkeypatch):
    run = real_run(tmp_path)
    evaluation.do_if_possible(run, QUALITY)  # its models are not judged
    monkeypatch.setattr(type(run), "facts", lambda run, key: Evaluated("micro", {}))
    run.step_runner.finished |= {EVALUATED.step, "dataset.clean"}
    monkeypatch.setattr(evaluation, "_on_device", _failing)
    evaluation.do_if_possible(run, QUALITY)
    log = (run.paths.logs / "automation_log.txt").read_text()
    assert "evaluation.quality failed, the run goes on without it: evaluation.models has not finished" in log
    assert "evaluation.quality failed, the run goes on without it: no such text" in log
    records = run.step_runner.records("evaluation")
    assert [(record.name, record.state) for record in records] == [("evaluation.quality", "failed")]


@pytest.mark.slow
def test_models_are_compared_and_samples_judged_in_the_worker(tmp_path, monkeypatch):
    run = real_run(tmp_path)
    data = make_data(tmp_path / "made", "".join(f"the {n} sheep went over hill {n % 5}.\n" for n in range(4000)))
    shutil.copytree(data.parent, run.paths.data)
    for seed, name in enumerate(["micro", "tiny_model"]):
        model = randomised(small(vocab_size=load_tokenizer(data).vocab_size), seed)
        lay_down(run.paths.model(name), model, load_tokenizer(data))
        save_config(Config(model=model.config.model_dump(), data={"tokenizer": "char"}), run.paths.config(name))
    facts = {
        EVALUATED: Evaluated("micro", dict.fromkeys(["micro", "tiny_model"])),
        CHECKS: SimpleNamespace(device="cpu"),
    }
    monkeypatch.setattr(type(run), "facts", lambda run, key: facts[key])
    found = evaluation.judge_quality(run)
    run.worker.close()
    quality = found.facts
    assert [model.model for model in quality.comparison.models] == ["micro", "tiny_model"]
    assert quality.comparison.models[0].tokens == len(open_split(data, "test").tokens) - 1
    assert [row.name for row in quality.comparison.baselines] == ["unigram", "5-gram"]
    assert [file.stem for file in found.files] == quality.figures and all(file.is_file() for file in found.files)
    assert found.files[0] == run.paths.reports / "figures" / "micro-calibration.svg"
    assert any("samples of micro look like the text" in line for line in quality.findings)
    assert from_json(Quality, to_json(quality)) == quality


def _failing(*_, **__):
    raise UserError("no such text")


def test_a_budget_too_short_to_compare_in_depth_leaves_it_out_and_says_so(tmp_path, monkeypatch):
    run = real_run(tmp_path, "--budget", "2m")
    monkeypatch.setattr(type(run), "facts", lambda run, key: Evaluated("micro", {}))
    found = evaluation.judge_quality(run)
    assert found.left_out == found.facts.left_out == "a budget of 2 min has no time for it" and not found.files


def test_a_study_that_fails_is_recorded_as_failed_and_costs_neither_phase_nor_run(tmp_path, monkeypatch):
    run = real_run(tmp_path)
    evaluation.do_if_possible(run, STUDIED)  # its models are not judged
    monkeypatch.setattr(type(run), "facts", lambda run, key: Evaluated("micro", {}))
    run.step_runner.finished.add(EVALUATED.step)
    evaluation.do_if_possible(run, STUDIED)  # its model has no configuration
    log = (run.paths.logs / "automation_log.txt").read_text()
    assert "evaluation.study failed, the run goes on without it: evaluation.models has not finished" in log
    assert f"evaluation.study failed, the run goes on without it: {run.paths.config('micro')}: cannot be read" in log
    assert [(record.name, record.state) for record in run.step_runner.records("evaluation")] == [
        ("evaluation.study", "failed")
    ]


def test_a_budget_too_short_for_a_study_leaves_it_out_and_says_so(tmp_path, monkeypatch):
    run = real_run(tmp_path, "--budget", "2m")
    monkeypatch.setattr(type(run), "facts", lambda run, key: Evaluated("micro", {}))
    found = evaluation.study_best(run)
    assert found.left_out == found.facts.left_out == "a budget of 2 min has no time for it" and not found.files
