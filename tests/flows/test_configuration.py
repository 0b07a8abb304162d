"""Phase 3: what is measured, what need not be, and the micro-batch that a model is trained with."""

import re
from collections import namedtuple

import pytest

from flows.context.options import CHECKOUT, parse
from flows.display.plain import PlainDisplay
from flows.ledger.ledger import Outcome, Step
from flows.phases import configuration
from flows.planning import memory_limits as remembered
from flows.runner.run import Run
from nanogpt.config import Config, load_config
from nanogpt.measure.sizes import flops_per_token, parameters, tokens_per_step

pytestmark = pytest.mark.fast
GIB = 2**30
FACTS = {
    "environment.device": {"device": "cpu", "memory_bytes": 64 * GIB, "float32_flops": 2e11, "bfloat16_flops": 4e11},
    "implementation.checks": {"device": "cpu"},
    "dataset.fetch": {"bytes": 10**9, "characters": 10**9, "alphabet_size": 65},
}
Usage = namedtuple("Usage", "total used free")


class Machine:
    """Answers as the worker would on a machine of `rate` FLOP/s, where micro-batches above `most` have no memory."""

    def __init__(self, rate: float = 1e15, most: int = 10**6, fastest: int | None = None):
        self.rate, self.most, self.fastest, self.peak = rate, most, fastest, GIB
        self.measured: list[tuple[str, int]] = []
        self.searched: list[tuple[str, float]] = []

    def call(self, target: str, config: dict, timeout: float, **arguments):
        config, function = Config.model_validate(config), target.partition(":")[2]
        return getattr(self, function)(config, **arguments)

    def choose_precision_and_threads(self, config, device, seconds):
        self.measured.append((config.name, config.training.batch_size))
        if config.training.batch_size > self.most:
            raise MemoryError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 402653184 bytes")
        return {"mixed_precision": True, "threads": 2}

    def rehearse(self, config, device, folder, seconds):
        assert config.device.mixed_precision is True and config.device.threads == 2  # what was chosen is rehearsed
        rate = self.rate * (2 if config.training.batch_size == self.fastest else 1)
        tokens_per_second = rate / flops_per_token(config.model)
        return {
            "parameters": parameters(config.model).total, "tokens_per_second": tokens_per_second,
            "seconds_per_step": tokens_per_step(config) / tokens_per_second, "flops_per_second": rate,
            "share_of_matmul": 0.5,
            "peak_memory_bytes": self.peak, "mixed_precision": True, "precision": "bfloat16", "threads": 2,
            "evaluation_seconds_per_token": 1e-9, "sample_seconds": 0.01, "save_seconds": 0.1,
        }  # fmt: skip

    def find_for(self, config, folder, seconds):
        self.searched.append((config.name, seconds))
        speeds = {1: 1e12, 2: 2e12, 7: 9e12, self.fastest or config.training.batch_size: 5e12}  # 7 divides no step
        return {"micro_batch": 7, "tried": [
            *({"micro_batch": size, "result": "fits", "tokens_per_second": speed} for size, speed in speeds.items()),
            {"micro_batch": 16, "result": "out of memory"},
        ]}  # fmt: skip


class Small(Machine):
    """A machine that runs out of memory with more than `tokens` in a pass, or, as `recomputes`, with kept blocks."""

    def __init__(self, tokens: int, recomputes: bool = True):
        super().__init__()
        self.tokens, self.recomputes, self.fitted = tokens, recomputes, []

    def choose_precision_and_threads(self, config, device, seconds):
        tokens = config.training.batch_size * config.context
        if tokens > self.tokens or (self.recomputes and not config.device.gradient_checkpointing):
            raise MemoryError
        self.fitted.append((config.name, config.training.batch_size, config.context))
        return super().choose_precision_and_threads(config, device, seconds)


@pytest.fixture
def start(tmp_path, monkeypatch):
    def start(machine: Machine, *arguments: str, free_disk: int = 10**15, **facts: dict) -> Run:
        run = Run(parse(["--workspace", str(tmp_path), "--set", "milestones=false", *arguments]))
        run.display, run.worker = PlainDisplay(), machine
        monkeypatch.setattr(configuration.shutil, "disk_usage", lambda path: Usage(free_disk, 0, free_disk))
        for name, known in {**FACTS, **facts}.items():
            step = Step(name, name, lambda run: Outcome())
            run.ledger.start(step, {}, "never run")
            run.ledger.finish(step, Outcome(facts=known), seconds=1.0)
            run.finished_steps.add(name)
        return run

    return start


def test_on_a_mighty_machine_every_model_is_measured(start):
    machine = Machine()
    facts = configuration.measure_speed(start(machine, "--budget", "8h")).facts
    assert list(facts["models"]) == ["micro", "tiny_model", "small_model", "medium_model", "large_model"]
    assert facts["unmeasured"] == {}


def test_what_is_predicted_not_to_fit_is_left_out_unmeasured_with_the_figures(start):
    machine = Machine()
    small = {**FACTS["environment.device"], "memory_bytes": 12 * GIB}
    facts = configuration.measure_speed(start(machine, "--budget", "8h", **{"environment.device": small})).facts
    assert "large_model" not in dict(machine.measured)
    assert list(facts["unmeasured"]) == ["large_model"]
    told = r"is predicted to need 1\d\.\d GiB even with one sequence at a time; 8\.4 GiB are there for a training"
    assert re.fullmatch(told, facts["unmeasured"]["large_model"])


def test_a_model_whose_checkpoints_find_no_room_is_left_out_with_the_figures(start):
    machine = Machine()
    facts = configuration.measure_speed(start(machine, "--budget", "8h", free_disk=4 * GIB)).facts
    assert list(facts["models"]) == ["micro", "tiny_model", "small_model"]
    assert facts["unmeasured"]["medium_model"] == (
        "its checkpoints would need 5.6 GiB; 4.0 GiB of the disk are free"
    )  # fmt: skip


def test_a_model_that_the_text_cannot_feed_is_left_out_with_the_figures(start):
    machine, play = Machine(), {"bytes": 1_115_394, "characters": 1_115_394, "alphabet_size": 65}
    facts = configuration.measure_speed(start(machine, "--budget", "8h", **{"dataset.fetch": play})).facts
    assert list(facts["models"]) == ["micro", "tiny_model"]
    assert facts["unmeasured"]["small_model"] == (
        "has 49 parameters for each of the 1,003,854 tokens to learn from; with more than 20 it would learn the text "
        "by heart"
    )  # fmt: skip


def test_a_slow_machine_measures_no_more_than_can_be_any_good(start):
    machine = Machine(rate=5e10)
    facts = configuration.measure_speed(start(machine, "--budget", "2m")).facts
    assert list(facts["models"]) == ["micro"]
    assert all("tokens in" in reason for reason in facts["unmeasured"].values()) and len(facts["unmeasured"]) == 4


def test_what_has_no_memory_is_measured_in_smaller_micro_batches_of_the_same_step(start):
    machine = Machine(most=5)
    facts = configuration.measure_speed(start(machine, "--set", "ladder=[micro]")).facts
    assert machine.measured == [("micro", 12), ("micro", 6), ("micro", 3)]
    assert (facts["models"]["micro"]["batch_size"], facts["models"]["micro"]["gradient_accumulation"]) == (3, 4)


def test_the_fastest_micro_batch_that_divides_the_step_is_taken_for_the_model_with_the_most_time(start):
    machine = Machine(fastest=2)
    run = start(machine, "--budget", "8h", "--set", "ladder=[micro, tiny_model, medium_model]")
    measured = configuration.measure_speed(run).facts["models"]
    assert machine.searched == [("medium_model", 60.0)]
    assert (measured["medium_model"]["batch_size"], measured["medium_model"]["gradient_accumulation"]) == (2, 8)
    assert measured["micro"]["batch_size"] == 12


def test_a_micro_batch_that_is_no_faster_after_all_is_not_taken(start, monkeypatch):
    machine = Machine(fastest=2)
    run = start(machine, "--budget", "8h", "--set", "ladder=[medium_model]")
    monkeypatch.setattr(machine, "fastest", None)  # the search was wrong: nothing is faster when it is rehearsed
    monkeypatch.setattr(machine, "find_for", lambda config, folder, seconds: {
        "tried": [{"micro_batch": 4, "result": "fits", "tokens_per_second": 1e12}]})  # fmt: skip
    assert configuration.measure_speed(run).facts["models"]["medium_model"]["batch_size"] == 8


def test_a_search_that_found_nothing_faster_costs_no_measurement(start, monkeypatch):
    machine = Machine()
    run = start(machine, "--budget", "8h", "--set", "ladder=[medium_model]")
    monkeypatch.setattr(machine, "find_for", lambda config, folder, seconds: {
        "tried": [{"micro_batch": 1, "result": "fits", "tokens_per_second": 1.0}]})  # fmt: skip
    configuration.measure_speed(run)
    assert machine.measured == [("medium_model", 8)]


@pytest.mark.parametrize("arguments", [["--budget", "10m"], ["--budget", "8h", "--config", "configs/micro.yaml"],
                                       ["--budget", "8h", "--set", "training.batch_size=6"]])  # fmt: skip
def test_a_short_run_and_a_step_as_a_person_wrote_it_are_not_searched_for(start, arguments, monkeypatch):
    monkeypatch.chdir(configuration.__file__.rsplit("/flows/", 1)[0])
    machine = Machine()
    configuration.measure_speed(start(machine, *arguments))
    assert machine.searched == []


def test_the_plan_writes_what_was_measured_into_the_models_yaml(start):
    machine = Machine(fastest=2)
    run = start(machine, "--budget", "8h", "--set", "ladder=[micro, medium_model]")
    for step in (configuration.MEASURE, configuration.PLAN):
        run.do(step)
    resolved = load_config(run.paths.configs / "medium_model.yaml")
    assert (resolved.training.batch_size, resolved.training.gradient_accumulation) == (2, 8)
    assert resolved.device.mixed_precision is True and resolved.device.threads == 2


# Memory -----------------------------------------------------------------------------------------------------------

CONFIG = ["--config", str(CHECKOUT / "configs/tiny_model.yaml")]  # 128 tokens in a window


@pytest.mark.parametrize("tokens, recomputes, fits", [
    (640, False, ("tiny_model", 3, 128)), (128, False, ("tiny_model", 1, 128)), (128, True, ("tiny_model", 1, 128)),
    (64, True, ("tiny_model", 1, 64)),
])  # fmt: skip
def test_what_has_no_memory_is_recomputed_and_then_cut_into_windows(start, tokens, recomputes, fits):
    run = start(Small(tokens, recomputes), *CONFIG)
    for step in (configuration.MEASURE, configuration.PLAN):
        run.do(step)
    assert run.worker.fitted == [fits]
    planned = load_config(run.paths.configs / "tiny_model.yaml")
    assert (planned.training.batch_size, planned.context) == fits[1:]
    assert planned.training.batch_size * planned.training.gradient_accumulation == 12
    assert planned.device.gradient_checkpointing is (tokens <= 64 or recomputes)


def test_only_the_smallest_is_cut_into_windows_a_larger_one_is_left_out(start):
    run = start(Small(64), "--budget", "8h", "--set", "ladder=[micro, tiny_model]")
    facts = configuration.measure_speed(run).facts
    assert list(facts["models"]) == ["micro"] and "cannot be trained here" in facts["unmeasured"]["tiny_model"]


@pytest.mark.parametrize("memory", [0.85 * GIB, 0.7 * GIB])
def test_where_the_model_asked_for_is_predicted_not_to_fit_the_next_smaller_one_takes_its_place(start, memory):
    little = {**FACTS["environment.device"], "memory_bytes": int(memory)}
    machine = Machine()
    machine.peak = GIB // 4
    run = start(machine, "--config", str(CHECKOUT / "configs/small_model.yaml"), "--set", "training.max_iters=177",
                **{"environment.device": little})  # fmt: skip
    for step in (configuration.MEASURE, configuration.PLAN):
        run.do(step)
    [name] = run.rung_names()
    assert name == ("tiny_shakespeare" if memory > 0.8 * GIB else "tiny_model")
    assert load_config(run.paths.configs / f"{name}.yaml").training.max_iters == 177
    [row] = run.remedies
    assert row["symptom"] == "out_of_memory" and row["remedy"] == "the next smaller model" and row["outcome"] == name
    assert re.search(r"small_model is predicted to need \d\.\d GiB even with one sequence", row["evidence"])


def test_where_not_even_the_smallest_fits_the_reasons_are_told(start):
    with pytest.raises(MemoryError, match=r"no model fits into memory: tiny_model cannot .*; micro cannot be trained"):
        configuration.measure_speed(start(Small(8), *CONFIG))


# What is remembered -----------------------------------------------------------------------------------------------


def test_the_next_run_begins_with_what_fitted(start):
    run = start(Machine(), *CONFIG)
    config = load_config(CHECKOUT / "configs/tiny_model.yaml")
    fits = {"micro_batch": 5, "device": "cpu", "gradient_checkpointing": True}
    remembered.note(run, resolved(config), fits, "killed")
    machine = Small(10**6)
    facts = configuration.measure_speed(start(machine, *CONFIG, "--run", "next")).facts["models"]["tiny_model"]
    assert machine.fitted == [("tiny_model", 3, 128)]  # what divides the step's 12
    assert (facts["batch_size"], facts["gradient_checkpointing"]) == (3, True)


def test_a_person_who_sets_the_micro_batch_wins(start):
    run = start(Machine(), *CONFIG)
    remembered.note(run, resolved(load_config(CHECKOUT / "configs/tiny_model.yaml")), None, "killed")
    machine = Machine()
    configuration.measure_speed(start(machine, *CONFIG, "--set", "training.batch_size=6", "--run", "next"))
    assert machine.measured == [("tiny_model", 6)]


def test_what_did_not_fit_is_planned_without_in_this_run_and_the_next(start):
    run = start(Machine(), *CONFIG)
    for step in (configuration.MEASURE, configuration.PLAN):
        run.do(step)
    assert run.rung_names() == ["tiny_model"]
    remembered.note(run, load_config(run.paths.configs / "tiny_model.yaml"), None, "out of memory in windows of 16")
    for again in (run, start(Machine(), *CONFIG, "--run", "next")):
        for step in (configuration.MEASURE, configuration.PLAN):
            again.do(step)
        assert again.rung_names() == ["micro"]
        [row] = again.ledger.facts("configuration.plan")["left_out"]
        assert row["name"] == "tiny_model" and "did not fit into memory on" in row["reason"]
        assert "out of memory in windows of 16" in row["reason"]


def test_what_is_larger_than_what_did_not_fit_is_not_tried(start):
    ladder = ["--budget", "8h", "--set", "ladder=[micro, tiny_model, small_model]"]
    run = start(Machine(), *ladder)
    remembered.note(run, resolved(load_config(CHECKOUT / "configs/tiny_model.yaml")), None, "killed")
    facts = configuration.measure_speed(run).facts
    assert list(facts["models"]) == ["micro"]
    assert facts["unmeasured"]["small_model"].startswith("is larger than tiny_model, which did not fit into memory on")


def resolved(config: Config) -> Config:
    """As the plan writes it for this text and this machine."""
    return config.with_changes({"data.tokenizer": "bpe", "device.type": "cpu", "device.mixed_precision": True})
