"""The law is found again in runs that follow it, its intervals hold it, and too few runs are refused."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt import cli, durable
from nanogpt.config import save_config
from nanogpt.plots.scaling import scaling_plot
from nanogpt.records import from_json, to_json
from nanogpt.results.study import ScalingLaw, ScalingPoint, ScalingStudy
from nanogpt.results.text import TokenSplit
from nanogpt.results.training import TrainingData, TrainingOutcome
from nanogpt.study import scaling
from nanogpt.study.runs import trained_runs
from tests.nanogpt.training_case import tiny

SIZES, AMOUNTS = (30_000, 100_000, 800_000), (80_000, 230_000, 770_000, 2_000_000)
LAW = ScalingLaw(floor=1.2, size=40.0, size_power=0.35, data=300.0, data_power=0.3)


def points(law: ScalingLaw, sizes=SIZES, amounts=AMOUNTS) -> list[ScalingPoint]:
    return [ScalingPoint(f"{n}-{d}", n, d, n * d / 1e9, law.loss(n, d)) for n in sizes for d in amounts]


@settings(max_examples=15, deadline=None)
@given(st.floats(0.0, 2.0), st.floats(0.15, 0.6), st.floats(0.15, 0.6))
def test_the_law_behind_exact_runs_is_found_again(floor, size_power, data_power):
    law = ScalingLaw(floor, 2.0 * 30_000**size_power, size_power, 3.0 * 80_000**data_power, data_power)
    found = scaling.fit(points(law), scaling.BOTH)
    for n in SIZES:
        assert found.loss(n, 2e7) == pytest.approx(law.loss(n, 2e7), rel=0.002)
    assert (found.size_power, found.data_power) == (
        pytest.approx(size_power, abs=0.02),
        pytest.approx(data_power, abs=0.02),
    )


def test_one_size_carries_a_law_of_data_alone():
    alone = points(LAW, sizes=SIZES[:1])
    assert scaling._form(alone) == scaling.DATA
    found = scaling.fit(alone, scaling.DATA)
    assert found.size == 0 and found.data_power == pytest.approx(0.3, abs=0.01)
    assert scaling._form(points(LAW, amounts=AMOUNTS[:1], sizes=(1000, 3000, 9000, 30_000))) == scaling.SIZE


def test_the_best_split_is_the_lowest_of_all_splits():
    product = 1e13
    best = scaling.best_size(LAW, product)
    losses = [LAW.loss(n, product / n) for n in (best / 1.2, best, best * 1.2)]
    assert losses[1] == min(losses)


def a_run(folder, point: ScalingPoint, text: str = "a" * 64, **settings: object):
    folder.mkdir(parents=True)
    save_config(tiny(**settings), folder / "config.yaml")
    rows = [{"kind": "eval", "step": 10, "val_loss": point.loss, "bits_per_byte": point.loss * 1.44, "seconds": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = TrainingOutcome(
        "finished", "max_iters", 10, point.seconds, point.tokens, point.loss, 10, False, 0, 0, point.loss, "0" * 64,
        point.parameters, 1.0, 1, "cpu", "float32", 1, 16,
    )  # fmt: skip
    durable.write_json(folder / "outcome.json", asdict(outcome))
    data = TrainingData(text, text, {"train": TokenSplit(1_000_000, 1_000_000, 1_000_000)})
    durable.write_note(folder / "data.json", to_json(data))


def test_the_command_fits_runs_and_predicts_within_its_interval(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scaling, "DRAWS", 40)
    for number, point in enumerate(points(LAW)):
        off = 1 + 0.01 * (-1) ** number  # a hundredth, as another seed would make it
        a_run(tmp_path / "run" / point.run, replace(point, loss=point.loss * off))
    assert cli.main(["study", "scaling", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    study = from_json(ScalingStudy, json.loads((tmp_path / "out/scaling.json").read_text()))
    output = capsys.readouterr().out
    assert all(sentence in output for sentence in study.findings)
    assert study.form == scaling.BOTH and len(study.draws) == 40
    assert study.parts["data_power"].low < 0.3 < study.parts["data_power"].high
    for prediction in study.predictions:
        true = LAW.loss(prediction.parameters, prediction.tokens)
        assert prediction.loss.low <= true <= prediction.loss.high
    assert study.predictions[0].tokens == 20_000_000 and "read more than 4 times" in output
    assert scaling_plot(study, tmp_path / "a.svg").read_bytes() == (tmp_path / "out/scaling.svg").read_bytes()


def test_a_prediction_allows_for_the_seed_of_the_run_however_sure_the_law_is():
    runs = scaling._as_runs([LAW] * 200, error=0.01)
    for prediction in scaling._predictions(points(LAW), LAW, runs, scaling.BOTH):
        loss = prediction.loss
        assert loss.high - loss.low == pytest.approx(2 * 1.96 * 0.01 * loss.value, rel=0.15)


def test_a_training_counts_once_and_one_that_began_with_trained_weights_not_at_all(tmp_path):
    first, second = points(LAW)[:2]
    a_run(tmp_path / "run/scratch", first)
    a_run(tmp_path / "run/tuned", second, init_from="models/scratch")
    runs = [*trained_runs(tmp_path / "run"), *trained_runs(tmp_path / "run/../run/scratch")]
    assert [point.run for point in scaling._points(runs)] == ["scratch"]


@pytest.mark.parametrize(
    "kept, texts, words",
    [
        (3, ["a" * 64], "found 3 finished trainings from scratch (sizes: 1, numbers of tokens: 3); a law needs 4"),
        (12, ["a" * 64, "b" * 64], "learned from different tokens; one law is of one text"),
    ],
)
def test_too_few_runs_or_different_texts_are_one_line(tmp_path, capsys, kept, texts, words):
    for number, point in enumerate(points(LAW)[:kept]):
        a_run(tmp_path / "run" / point.run, point, texts[number % len(texts)])
    assert cli.main(["study", "scaling", str(tmp_path / "run"), "--out", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err.splitlines()
    assert words in error[-1] and not (tmp_path / "o").exists()
