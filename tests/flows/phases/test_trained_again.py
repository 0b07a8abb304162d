"""What a training takes over from one before it, and when it is none."""

import pytest

from flows.ledger.facts import CHECKS, DEVICE, FETCHED, PLANNED, trained
from flows.phases import training
from flows.supervision.recovery import Recovery
from nanogpt import durable
from nanogpt.config import load_config, save_config
from tests.flows.real_run import finish, finish_now, real_run, write_config

pytestmark = pytest.mark.fast
NEEDS = (DEVICE, CHECKS, FETCHED, PLANNED)


def test_nothing_is_trained_by_a_plan_of_the_past(tmp_path):
    run = real_run(tmp_path)
    finish(run, PLANNED)
    run.run_phase(training.PHASE)  # this session's configuration phase has failed
    record = run.phase_runner.record("training")
    assert record.status == "blocked" and record.cause == "configuration.plan has not finished"


@pytest.mark.parametrize("redo", [True, False])
def test_redo_trains_from_the_beginning_and_keeps_what_there_was(tmp_path, monkeypatch, redo):
    run = real_run(tmp_path, *(["--redo", "training.micro"] if redo else []))
    finish_now(run, *NEEDS)
    write_config(run, "micro")
    folder = run.paths.model("micro")
    durable.write_text(folder / "metrics.jsonl", "{}\n")

    def train(self):
        raise RuntimeError("comes to the training")

    monkeypatch.setattr(Recovery, "train", train)
    with pytest.raises(RuntimeError, match="comes to the training"):
        training.train_model(run, "micro")
    assert folder.exists() is not redo
    assert (folder.with_name("micro.previous") / "metrics.jsonl").exists() is redo


@pytest.mark.parametrize("is_rotten", [False, True])
def test_other_data_is_another_training_and_a_rotten_note_of_it_is_none(tmp_path, monkeypatch, is_rotten):
    run = real_run(tmp_path)
    finish_now(run, *NEEDS)
    write_config(run, "micro")
    folder, config = run.paths.model("micro"), load_config(run.paths.config("micro"))
    save_config(config, folder / "config.yaml")
    durable.write_json(run.paths.data / config.data.tokenizer / "manifest.json", {})
    durable.write_note(folder / "data.json", {"manifest_sha256": "a" * 64})
    if is_rotten:
        (folder / "data.json").write_text((folder / "data.json").read_text().replace("aaaa", "aaab", 1))
    monkeypatch.setattr(Recovery, "train", lambda self: None)
    with pytest.raises(RuntimeError, match="best is missing"):
        training.train_model(run, "micro")
    assert folder.with_name("micro.previous").exists() is not is_rotten
    if not is_rotten:
        said = (run.paths.logs / "automation_log.txt").read_text()
        assert "micro was trained with other settings before (data aaaaaaaaaaaa -> " in said


def test_a_training_that_leaves_no_best_weights_says_so(tmp_path, monkeypatch):
    run = real_run(tmp_path)
    finish_now(run, *NEEDS)
    write_config(run, "micro")
    monkeypatch.setattr(Recovery, "train", lambda self: None)
    with pytest.raises(RuntimeError, match=r"micro/best is missing: .* --redo training.micro"):
        training.train_model(run, "micro")


def test_a_step_of_its_own_for_each_model_of_the_plan(tmp_path):
    run = real_run(tmp_path)
    assert run.models() == ["micro", "tiny_model"]
    finish(run, PLANNED)
    assert run.models() == ["micro", "tiny"]
    assert run.step(trained("tiny")).costly
