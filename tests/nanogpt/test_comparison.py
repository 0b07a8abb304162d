"""Equal seeds and different seeds compare as no clear difference, different learning rates as a clear one."""

import json
import shutil
from dataclasses import replace

import pytest

from nanogpt import cli
from nanogpt.plots.comparison import differences_plot
from nanogpt.records import from_json, to_json
from nanogpt.results.quality import Estimate
from nanogpt.results.study import ComparedRun, RunComparison, RunDifference
from nanogpt.study import comparison
from nanogpt.study.comparison_page import as_html
from nanogpt.study.runs import distinct_names, read_training, trained_run
from nanogpt.training.trainer import train
from tests.nanogpt.training_case import make_data, tiny

SLOW = dict(learning_rate=1e-6, muon_learning_rate=1e-6, embedding_learning_rate=1e-6)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """checkpoints/run/MODEL and data/run/char, as a run leaves them; and `equal`, the same training in another run."""
    folder = tmp_path_factory.mktemp("workspace")
    data = make_data(folder / "data" / "run")
    models = folder / "checkpoints" / "run"
    for name, settings in {"one": {}, "two": {"seed": 7}, "slow": SLOW}.items():
        config = tiny(max_iters=12, eval_interval=6, **settings).with_changes({"name": name})
        train(config, data, models / name)
    shutil.copytree(models / "one", folder / "checkpoints" / "equal" / "one")
    return folder


def compared(capsys, folder, *runs, out) -> tuple[RunComparison, str]:
    assert cli.main(["compare", *map(str, runs), "--out", str(out), "--device", "cpu"]) == 0
    return from_json(RunComparison, json.loads((out / "comparison.json").read_text())), capsys.readouterr().out


def test_equal_seeds_other_seeds_and_other_rates(workspace, tmp_path, capsys):
    models = workspace / "checkpoints" / "run"
    runs = [models / "one", workspace / "checkpoints/equal", models / "two", models / "slow"]
    found, output = compared(capsys, workspace, *runs, out=tmp_path)
    clear = {difference.run: difference.is_clear for difference in found.differences}
    assert clear.pop("run/slow") and not any(clear.values()) and len(clear) == 2
    assert found.runs[-1].name == "run/slow" and "is clearly better than run/slow" in output
    best, same = (run for run in found.runs if run.name in ("run/one", "equal/one"))
    assert best.weights == same.weights and best.bits_per_byte == same.bits_per_byte
    assert {setting.key for setting in found.settings} == {"training.seed", *(f"training.{key}" for key in SLOW)}
    assert found.spread == comparison.SEEDS
    page = (tmp_path / "comparison.html").read_text()
    assert all(run.name in page for run in found.runs)
    assert page.count("<svg") == 2 and "<script" not in page and "<link" not in page and "src=" not in page
    again = differences_plot(found, tmp_path / "again.svg").read_bytes()
    assert again == (tmp_path / "differences.svg").read_bytes()


def test_of_a_whole_run_the_best_model_is_taken(workspace):
    assert trained_run(workspace / "checkpoints/run").folder.name in ("one", "two")
    assert trained_run(workspace / "checkpoints/run").data_folder() == workspace / "data/run/char"
    assert trained_run(workspace / "checkpoints/equal").data_folder() is None


def test_the_seeds_at_hand_say_how_far_seeds_come_apart(workspace):
    run = read_training(workspace / "checkpoints/run/one")

    def of_seed(seed: int, rate: float = 0.01):
        return replace(run, config=run.config.with_changes({"training.seed": seed, "training.learning_rate": rate}))

    six = [of_seed(seed, rate) for rate in (0.01, 0.02) for seed in (1, 2, 3)]
    found = comparison.seed_spread(six, [1.98, 2.0, 2.02, 0.99, 1.0, 1.01])
    assert found.deviation == pytest.approx(0.01) and found.runs == 5
    assert comparison.seed_spread(six[:4], [1.98, 2.0, 2.02, 0.99]) == comparison.SEEDS
    assert comparison.seed_spread([of_seed(1)] * 6, [2.0] * 6) == comparison.SEEDS


def test_a_difference_within_the_seeds_noise_is_not_clear_however_sure_the_text_is():
    def of(value: float, by_seed: float) -> RunDifference:
        text = Estimate(value, value - 0.01, value + 0.01)
        return RunDifference("a", "b", text, by_seed, (0.01**2 + by_seed**2) ** 0.5, same_weights=False)

    assert of(0.05, 0.0).is_clear and not of(0.05, 0.06).is_clear and not of(0.009, 0.0).is_clear


def test_names_tell_the_runs_apart_and_do_no_harm(workspace):
    run = read_training(workspace / "checkpoints/run/one")
    other = read_training(workspace / "checkpoints/equal/one")
    assert distinct_names([run, other]) == ["run/one", "equal/one"]
    assert distinct_names([run, run]) == ["run/one #1", "run/one #2"]
    bits = Estimate(2.0, 1.9, 2.1)
    hostile = ComparedRun("<script>|", "x", 1, 1, 1, 1.0, "cpu", 1, "", bits)
    page = as_html(RunComparison("val", [hostile], [], [], comparison.SEEDS, ["<b>"]), [])
    assert "<script>|" not in page and "<b>" not in page and json.dumps(to_json(hostile))


@pytest.mark.parametrize(
    "runs, words",
    [
        (["run/one"], "found 1 run, two at least can be compared"),
        (["run/one", "nothing"], "there is no such folder"),
        (["run/one", "empty"], "neither a model's training folder nor"),
        (["run/one", "young"], "none of its 1 models has metrics yet"),
        (["run/one", "young/m"], "has no metrics yet"),
        (["equal", "run/one"], "which text? --data DIR"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(workspace, tmp_path, capsys, runs, words):
    checkpoints = workspace / "checkpoints"
    (checkpoints / "empty").mkdir(exist_ok=True)
    (checkpoints / "young/m").mkdir(parents=True, exist_ok=True)
    shutil.copy(checkpoints / "run/one/config.yaml", checkpoints / "young/m")
    assert cli.main(["compare", *(str(checkpoints / run) for run in runs), "--out", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err.splitlines()
    assert words in error[-1] and sum(line.startswith("nanogpt:") for line in error) == 1
    assert not (tmp_path / "o").exists()
