"""The range test: deterministic, without traces, its suggestion between too slow and too fast."""

import math
import shlex
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt import cli
from nanogpt.commands import lr_range
from nanogpt.config import load_config
from nanogpt.measure import learning_rate_range as lrr
from nanogpt.plots.measurements import learning_rate_range_plot
from nanogpt.training.record.metrics import read_rows
from nanogpt.training.trainer import train
from tests.nanogpt.training_case import saved_case, tiny

FACTORS = [0.01 * 10 ** (step / 25) for step in range(101)]  # 0.01 to 100


def bowl(edge: float) -> list[float]:
    """A loss that falls fastest at a hundredth of `edge`, is lowest at a tenth and explodes at `edge`."""
    falls = [2.0 / (1 + (100 * factor / edge) ** 2) for factor in FACTORS]
    return [2.2 + fall + (factor / edge) ** 2 for fall, factor in zip(falls, FACTORS, strict=True)]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return saved_case(tmp_path_factory.mktemp("case"))


@given(st.floats(2.0, 60.0))
def test_the_suggestion_lies_between_the_steepest_and_the_lowest_of_a_bowl(edge):
    found = lrr.judged(FACTORS, bowl(edge))
    assert edge / 300 < found.steepest < edge / 30 < found.lowest < edge / 2
    assert found.suggested == pytest.approx(math.sqrt(found.steepest * found.lowest))
    assert found.rises_again


def test_a_loss_that_never_falls_gives_no_suggestion():
    for losses in ([4.2] * 60, [4.2 + 0.01 * step for step in range(60)], [4.2], []):
        found = lrr.judged(FACTORS[: len(losses)], losses)
        assert found.suggested is None
        assert "no suggestion" in lr_range.conclusion(found, {"training.learning_rate": 1.0})


def test_a_loss_that_still_falls_at_the_end_says_go_further():
    found = lrr.judged(FACTORS, [4.2 - 0.02 * step for step in range(101)])
    assert not found.rises_again
    assert "--to a higher one" in lr_range.conclusion(found, {"training.learning_rate": 1.0})


@given(st.lists(st.floats(-100, 100), max_size=60), st.integers(0, 9))
def test_means_keep_length_and_range(values, reach):
    means = lrr.centred_means(values, reach)
    assert len(means) == len(values)
    assert all(min(values) - 1e-9 <= mean <= max(values) + 1e-9 for mean in means)


def test_half_of_the_gain_lost_is_divergence():
    falling = [4.0 - 0.1 * step for step in range(15)]
    assert not any(lrr.has_diverged(falling[:end]) for end in range(16))
    assert not lrr.has_diverged([*falling, 2.8, 2.8])
    assert lrr.has_diverged([*falling, *[3.6] * 5])


def test_the_same_sweep_gives_the_same_losses_and_leaves_nothing_behind(case, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config, data = load_config(case[0]), case[1]
    before = sorted(data.iterdir())
    first, second = (lrr.learning_rate_range(config, data, 0.01, 30.0, 30) for _ in range(2))
    assert first == second and len(first.losses) > 10
    left = [path.name for path in tmp_path.iterdir() if not path.name.startswith("torchinductor")]  # torch's own
    assert left == [] and sorted(data.iterdir()) == before


def test_the_sweep_ends_when_the_loss_explodes(case):
    config = load_config(case[0], ["training.optimizer=adamw", "training.learning_rate=0.03", "training.grad_clip=0"])
    found = lrr.learning_rate_range(config, case[1], 0.01, 1e9, 80)
    assert len(found.losses) < 80
    assert all(map(math.isfinite, found.losses)) and found.rises_again


def test_the_first_step_is_the_first_of_the_training(case, tmp_path):
    """The same weights, the same data: what is measured is this recipe."""
    config = load_config(case[0])
    train(config, case[1], tmp_path / "m")
    found = lrr.learning_rate_range(config, case[1], 0.01, 1.0, 20)
    assert found.losses[0] == next(iter(read_rows(tmp_path / "m" / "metrics.jsonl")))["loss"]


def test_weights_that_are_there_decide_the_shape_that_the_file_leaves_out(case, tmp_path):
    train(tiny(max_iters=4, warmup_iters=1, eval_interval=4), case[1], tmp_path / "base")
    (tmp_path / "tune.yaml").write_text("device: {type: cpu, threads: 1}\n")
    config = load_config(tmp_path / "tune.yaml", [f"training.init_from={tmp_path / 'base'}"])
    assert lrr.learning_rate_range(config, case[1], 0.01, 1.0, 20).losses


def test_the_factor_is_on_every_peak_of_the_recipe():
    muon = lrr.peaks(tiny().training)
    assert set(muon) == {f"training.{kind}learning_rate" for kind in ("", "muon_", "embedding_")}
    assert lrr.peaks(tiny(optimizer="adamw", learning_rate=0.5).training) == {"training.learning_rate": 0.5}


def test_the_command_prints_settings_that_can_be_typed_and_draws(case, tmp_path, capsys):
    words = ["lr-range", str(case[0]), "--data", str(case[1]), "--steps", "30", "--picture", str(tmp_path / "a.svg")]
    assert cli.main(words) == 0
    output = capsys.readouterr().out
    settings = shlex.split(next(line for line in output.splitlines() if line.startswith("  --set")))
    changed = load_config(case[0], settings[1::2])
    assert changed.training.muon_learning_rate / tiny().training.muon_learning_rate == pytest.approx(
        changed.training.learning_rate / tiny().training.learning_rate, rel=0.1
    )
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    "more, words",
    [
        (["--from", "2", "--to", "1"], "--to 1: should be above --from 2"),
        (["--steps", "5"], "should be at least 20"),
        (["--picture", "a.pdf"], "should end in .svg or .png"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(case, capsys, more, words):
    assert cli.main(["lr-range", str(case[0]), "--data", str(case[1]), *more]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_without_a_suggestion_the_picture_is_drawn_all_the_same(tmp_path):
    flat = lrr.judged(FACTORS[:20], [4.2] * 20)
    assert learning_rate_range_plot(flat, "$x$", tmp_path / "a.svg").stat().st_size > 1000
