"""Each part does what it should, and each experiment notices when it does not."""

import json

import pytest

from nanogpt import cli
from nanogpt.plots.components import components_plot
from nanogpt.records import from_json
from nanogpt.results.machine import ComponentCheck
from nanogpt.results.study import Experiment
from nanogpt.study import experiments


def test_all_experiments_hold_and_the_broken_parts_are_put_back(tmp_path, capsys):
    assert cli.main(["study", "components", "--device", "cpu", "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert f"All {len(experiments.PLANS)} experiments hold." in output
    made = [from_json(Experiment, one) for one in json.loads((tmp_path / "components.json").read_text())]
    assert [one.title for one in made] == [plan.title for plan in experiments.PLANS]
    assert (tmp_path / "components.svg").read_bytes() == components_plot(made, tmp_path / "again.svg").read_bytes()
    assert experiments.Attention.attend is experiments.ATTEND and experiments.Optimizer.step is experiments.STEP


@pytest.mark.parametrize("found, broken, holds", [(0.0, 9.0, True), (9.0, 9.0, False), (0.0, 0.0, False)])
def test_an_experiment_holds_only_if_its_check_tells_whole_from_broken(found, broken, holds):
    def check(measured: float) -> list[ComponentCheck]:
        return [ComponentCheck("x", measured <= 1, measured, 1.0, "units", "")]

    experiment = Experiment("x", "a", "b", check(found), "c", check(broken))
    assert experiment.holds is holds
    assert ("NOT" in experiments.in_words(experiment)) is not holds


@pytest.mark.parametrize("seed", ["-1", str(2**63), "nan", "1" * 5000])
def test_a_seed_that_no_generator_takes_is_refused(seed, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["study", "components", "--seed", seed])
    assert ended.value.code == 2 and "should be a whole number from 0 to 2^63 - 1" in capsys.readouterr().err
