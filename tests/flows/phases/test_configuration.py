"""Phase 3: what was measured is planned with, the plan is written as YAML, and what does not fit is remembered."""

from dataclasses import replace

import pytest

from flows.context.paths import CHECKOUT
from flows.full_run import PHASES
from flows.ledger.facts import FETCHED, MEASURED, PLANNED
from flows.phases import configuration
from flows.planning import site
from flows.runner.run import Run
from nanogpt import durable
from nanogpt.config import load_config, save_config
from nanogpt.data import shards
from nanogpt.units import GIB
from tests.flows.parts import SITE, assembled, fetched, finish, finish_beginning
from tests.flows.planning.machines import Machine

pytestmark = pytest.mark.fast
TINY = ["--config", str(CHECKOUT / "configs/tiny_model.yaml")]


@pytest.fixture
def start(tmp_path, monkeypatch):
    def start(machine: Machine, *arguments: str, memory: int = 64 * GIB) -> Run:
        monkeypatch.setattr(site, "memory_bytes", lambda: memory)
        run = assembled(tmp_path, PHASES, machine, *arguments)
        finish_beginning(run)
        return run

    return start


def planned(run: Run) -> list[str]:
    run.do(MEASURED)
    return [model.name for model in run.do(PLANNED).ladder]


def test_the_fastest_micro_batch_is_searched_for_the_model_with_the_most_time_and_written(start):
    machine = Machine(fastest=2)
    run = start(machine, "--budget", "8h", "--set", "ladder=[micro, tiny_model, medium_model]")
    assert planned(run) == ["tiny_model", "medium_model"]
    assert machine.searched == [("medium_model", 60.0)]
    measured = run.facts(MEASURED).models
    assert (measured["medium_model"].batch_size, measured["medium_model"].gradient_accumulation) == (2, 8)
    assert measured["micro"].batch_size == 24
    resolved = load_config(run.paths.config("medium_model"))
    assert (resolved.training.batch_size, resolved.training.gradient_accumulation) == (2, 8)
    assert resolved.device.mixed_precision is True and resolved.device.threads == 2


@pytest.mark.parametrize("facts, redo, kernels", [
    ({"device": "cpu"}, [], "torch"), ({"device": "cpu", "kernels": "c-1"}, [], "auto"),
    ({"device": "cpu"}, ["--redo", "training.micro"], "auto"),
])  # fmt: skip
def test_a_training_from_before_the_kernels_is_measured_and_predicted_as_it_goes_on(
    start, monkeypatch, facts, redo, kernels
):
    """By torch's operators: slower, and with more memory than a new one."""
    machine, rehearsed = Machine(), {}
    rehearse = machine.rehearse
    monkeypatch.setattr(machine, "rehearse", lambda config, **more: rehearsed.update({config.name: config})
                        or rehearse(config, **more))  # fmt: skip
    run = start(machine, "--budget", "10m", *redo)
    durable.write_json(run.paths.model("micro") / "checkpoints/step-00000010/manifest.json", {"facts": facts})
    names = planned(run)
    assert rehearsed["micro"].device.kernels == kernels
    assert {load_config(run.paths.config(name)).device.kernels for name in names} == {"auto"}


@pytest.mark.parametrize("changed, other_data, kernels", [
    ({}, False, "torch"),
    ({"training.max_iters": 300, "training.weight_decay": 0.3}, False, "torch"),  # which a plan decides
    ({"training.batch_size": 12}, False, "auto"), ({}, True, "auto"),
])  # fmt: skip
def test_a_training_that_will_be_set_aside_is_measured_as_a_new_one(start, monkeypatch, changed, other_data, kernels):
    """micro once learned from 12 sequences a step: it begins anew with 24, by the kernels."""
    machine, rehearsed = Machine(), {}
    rehearse = machine.rehearse
    monkeypatch.setattr(machine, "rehearse", lambda config, **more: rehearsed.update({config.name: config})
                        or rehearse(config, **more))  # fmt: skip
    run = start(machine, "--budget", "10m")
    folder, micro = run.paths.model("micro"), run.options.candidates[0]
    save_config(micro.with_changes({**changed, "model.vocab_size": 65}), folder / "config.yaml")
    durable.write_json(folder / "checkpoints/step-00000010/manifest.json", {"facts": {"device": "cpu"}})
    data = run.paths.data / configuration._fetched_tokens(run).tokenizer
    durable.write_json(data / "manifest.json", {})
    identity = "a" * 64 if other_data else shards.identity(data)
    durable.write_note(folder / "data.json", {"manifest_sha256": identity})
    run.do(MEASURED)
    assert (micro.name, rehearsed["micro"].device.kernels) == ("micro", kernels)


@pytest.mark.parametrize("redo", [[], ["--redo", "training.micro"]])
def test_a_training_that_another_plan_began_gets_no_fewer_steps(start, redo):
    """With fewer it would be another one: a busier machine, or a smaller budget, would cost what it has learned."""
    run = start(Machine(), "--budget", "10m", "--set", "ladder=[micro]", *redo)
    folder, micro = run.paths.model("micro"), run.options.candidates[0]
    before = {"training.max_iters": 10**8, "training.weight_decay": 0.3, "model.vocab_size": 65}
    save_config(micro.with_changes(before), folder / "config.yaml")
    data = run.paths.data / configuration._fetched_tokens(run).tokenizer
    durable.write_json(data / "manifest.json", {})
    durable.write_note(folder / "data.json", {"manifest_sha256": shards.identity(data)})
    planned(run)
    training = load_config(run.paths.config("micro")).training
    assert [training.max_iters == 10**8, training.weight_decay == 0.3] == 2 * [not redo]


@pytest.mark.parametrize("budget, is_short", [("2m", True), ("10m", False)])
def test_a_run_too_short_for_a_good_model_says_so_in_its_plan(start, budget, is_short):
    run = start(Machine(), "--budget", budget)
    planned(run)
    words = "2 min is enough to show that everything works here; a good model takes longer, such as --budget 10m"
    assert (words in (run.paths.logs / "automation_log.txt").read_text()) == is_short


def test_the_plan_names_the_text_that_was_fetched(start):
    """Which is the embedded corpus where what was asked for could not be had."""
    run = start(Machine(), "--budget", "10m", "--data", "tiny_shakespeare")
    finish(run, FETCHED, replace(fetched(10**6), source="embedded", fallback_reason="no network"))
    planned(run)
    assert load_config(run.paths.config("micro")).data.source == "embedded"


@pytest.mark.parametrize("arguments", [
    ["--budget", "10m"], ["--budget", "8h", *TINY], ["--budget", "8h", "--set", "training.batch_size=6"],
])  # fmt: skip
def test_a_short_run_and_a_step_as_a_person_wrote_it_are_not_searched_for(start, arguments):
    machine = Machine()
    planned(start(machine, *arguments))
    assert machine.measured and machine.searched == []


def test_the_smaller_model_in_the_place_of_one_that_does_not_fit_keeps_what_a_person_set(start):
    machine = Machine()
    machine.peak = GIB // 4
    small = ["--config", str(CHECKOUT / "configs/small_model.yaml"), "--set", "training.max_iters=177"]
    run = start(machine, *small, memory=int(0.7 * GIB))
    assert planned(run) == ["tiny_model"]
    assert load_config(run.paths.config("tiny_model")).training.max_iters == 177


def test_what_did_not_fit_is_planned_without_in_this_run_and_the_next(start):
    run = start(Machine(), *TINY)
    assert planned(run) == ["tiny_model"]
    config = load_config(run.paths.config("tiny_model"))
    run.limits.note(config, SITE, None, "out of memory in windows of 16")
    for again in (run, start(Machine(), *TINY, "--run", "next")):
        assert planned(again) == ["mini_model"]
        [row] = again.facts(PLANNED).left_out
        assert row.name == "tiny_model" and "did not fit into memory on" in row.reason
        assert "out of memory in windows of 16" in row.reason


def test_with_memory_for_what_did_not_fit_another_plan_is_made(start):
    run = start(Machine(), *TINY)
    planned(run)
    run.limits.note(load_config(run.paths.config("tiny_model")), SITE, None, "killed")
    assert planned(start(Machine(), *TINY)) == ["mini_model"]
    assert planned(start(Machine(), *TINY, memory=128 * GIB)) == ["tiny_model"]


def test_a_person_who_sets_the_micro_batch_wins(start):
    run = start(Machine(), *TINY)
    config = load_config(CHECKOUT / "configs/tiny_model.yaml").with_changes({"data.tokenizer": "bpe"})
    run.limits.note(config, SITE, None, "killed")
    machine = Machine()
    assert planned(start(machine, *TINY, "--set", "training.batch_size=6", "--run", "next")) == ["tiny_model"]
    assert machine.measured == [("tiny_model", 6)]
