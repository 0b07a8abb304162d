"""bench.choice: what it plans for each choice, and what its tables say."""

from pathlib import Path

import pytest

from bench import choice, predictions
from bench.choice import BY_HAND, PLANNER, Bench, Machine, Text, Trained, tables
from flows.ledger.facts import MeasuredModel
from flows.planning.forecast import Corpus
from flows.planning.planner import ModelPlan
from nanogpt import durable
from nanogpt.measure.sizes import parameters
from nanogpt.records import to_json


def trained(bits: float, by_steps: bool = False) -> Trained:
    return Trained("micro", 800_000, "float32", 2, 0.04, 60.0, 1500, 1_152_000, 2.2, bits, by_steps)


def test_a_verdict_for_each_kind_of_machine_and_time() -> None:
    results = {
        "one with bfloat16": Machine(
            trained={60: {PLANNER: trained(2.030), "wide": trained(2.0), "deep": trained(2.1)}}
        ),
        "one without": Machine(
            trained={
                60: {PLANNER: trained(2.050), "wide": trained(2.0, by_steps=True)},
                600: {PLANNER: trained(1.9)},
            }
        ),
    }
    text = "\n".join(tables(results))
    with_it, without, ten_minutes = text.split("of training**")[1:]
    assert "is within 2 % of the best of 2 by hand, wide: 1.5 % worse" in with_it and "busy" not in with_it
    assert with_it.index("| wide") < with_it.index(PLANNER + ": micro, 60 s") < with_it.index("| deep")
    assert "is not within 2 % of the best of 1 by hand, wide: 2.5 % worse" in without and "busy one" in without
    assert "Not finished" in ten_minutes


@pytest.mark.parametrize("seconds", [66, 480, 3000])
def test_the_law_takes_about_the_best_of_the_models_that_were_trained(seconds: int) -> None:
    """Of those with 24 sequences a step, which the planner chooses from, on each kind of machine."""
    plays = Corpus(1_115_394, 1_115_394, 65, 0.05, 0.05, 1.0)

    def expected(row: Trained) -> float:
        return plays.bits_per_byte(row.parameters, row.tokens, row.tokens / row.steps)

    for machine, kept in choice.read().items():
        rows = [row for name, row in kept.trained.get(seconds, {}).items() if name in choice.CANDIDATES]
        if rows:
            chosen, best = min(rows, key=expected).bits_per_byte, min(row.bits_per_byte for row in rows)
            assert chosen <= (1 + choice.CLOSE) * best, machine


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """All choices measured, at the same FLOP/s."""
    text = Text(tmp_path, Corpus(1_115_394, 1_115_394, 65, 0.05, 0.05, 1.0), 65)
    bench = Bench("this machine", text, by_steps=True)
    monkeypatch.setattr(choice, "RESULTS", tmp_path / "choice.json")
    speeds = {}
    for name, config in bench.choices():
        size = parameters(config.model).total
        rate = 1.5e11 / 6 / size  # tokens a second
        speeds[name] = MeasuredModel(
            rate, 1.5e11, 3e11, 0.5, None, size, config.tokens_per_step / rate, 10**8, False, "float32", "cpu", 2, 9,
            0.3 / rate, 0.01, 0.02, config.training.batch_size, 1, False, None, config.training.batch_size,
        )  # fmt: skip
    durable.write_json(choice.RESULTS, to_json(choice.Kept({"this machine": Machine(speeds)})))
    return bench


def test_every_choice_gets_the_same_seconds_and_steps_that_fill_them(bench: Bench) -> None:
    plans = {name: (model, plan) for name, model, plan in bench.plans(60)}
    assert plans.keys() == {PLANNER, *BY_HAND} and len(BY_HAND) >= 6
    assert plans[PLANNER][1].seconds <= 60
    speeds = choice.read()["this machine"].speeds
    assert plans["compact_model"][1].is_hopeless  # a minute is too short for it
    for name in BY_HAND.keys() - {"compact_model"}:
        _, plan = plans[name]
        assert 40 < plan.seconds <= 60  # its process starts, and it will be judged
        assert 0.8 * plan.seconds < plan.steps * speeds[name].seconds_per_step <= plan.seconds
    counted = plans["micro, batch 12"][1].config.with_changes(bench.by_count(plans["micro, batch 12"][1]))
    assert counted.training.batch_size == 12 and counted.device.threads == 1
    assert counted.training.max_iters == plans["micro, batch 12"][1].steps and counted.training.max_seconds is None


def test_what_is_kept_is_not_trained_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def note(_: Bench, model: str, plan: ModelPlan) -> Trained:
        asked.append(model)
        return trained(2.0)

    monkeypatch.setattr(Bench, "trained", note)
    bench.train(30, "micro")
    bench.train(30, PLANNER)  # so short that it takes micro alone, which is trained
    bench.train(30, "micro")
    assert asked == [name for name in BY_HAND if name.startswith("micro")]
    assert {PLANNER, "micro"} <= choice.read()["this machine"].trained[30].keys()


def test_each_bench_writes_its_own_table_into_the_plan_and_leaves_the_others(tmp_path, monkeypatch) -> None:
    (tmp_path / "docs").mkdir()
    plan = tmp_path / "docs/plan.md"
    plan.write_text(f"a\n{predictions.BEGIN}old\n{predictions.END}b\n{choice.BEGIN}old\n{choice.END}c\n")
    monkeypatch.setattr(predictions, "CHECKOUT", tmp_path)
    predictions.write("predicted\n")
    predictions.write("chosen\n", choice.BEGIN, choice.END)
    assert [line for line in plan.read_text().splitlines() if "<" not in line] == ["a", "predicted", "b", "chosen", "c"]


def test_a_training_is_the_commands_own_and_gives_its_outcome(tmp_path) -> None:
    """Of both benches."""
    (tmp_path / "text.txt").write_text("What say you to the moon? It is late.\n" * 60)
    text = Text.prepared(tmp_path / "text.txt", tmp_path)
    tiny = "model.n_layer=1 model.n_head=1 model.n_embd=8 model.block_size=8 training.max_iters=2 device.kernels=torch"
    config = text.config("micro", f"{tiny} training.warmup_iters=0 training.sample_interval=0 training.batch_size=2")
    outcome = choice.train(config, tmp_path / "char", tmp_path / "run")
    assert (outcome.status, outcome.step) == ("finished", 2)
