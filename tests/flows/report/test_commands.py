"""The command of a run as it may be shared."""

import pytest

from flows.report.commands import shareable

pytestmark = pytest.mark.fast
RUN = "python3 -m flows.full_run"


@pytest.mark.parametrize("words, shared", [
    ("--budget 10m --run night", "--budget 10m --run night"),
    ("--workspace /home/ada/x --budget 1h", "--budget 1h"),
    ("--workspace=/home/ada/x --no-ui", "--no-ui"),
    ("--data tiny_shakespeare", "--data tiny_shakespeare"),
    ("--data '/home/ada/my letters/to mum, dad.txt'", "--data 'to mum, dad.txt'"),
    ("--data=letters/mum/ --config configs/micro.yaml", "--data mum --config configs/micro.yaml"),
    ("--config /home/ada/micro.yaml", "--config micro.yaml"),
    ("--config ../secret/micro.yaml", "--config micro.yaml"),
    ("--set data.source=secret/mum.txt", "--set data.source=mum.txt"),
    ("--set=data.source=~/secret/a=b/mum.txt", "--set data.source=mum.txt"),
    ("--set data.mirror=/mnt/ada --set training.seed=3", "--set training.seed=3"),
    ("--set=data.mirror=https://ada.example/x --budget 1h", "--budget 1h"),
    ("--set 'ladder=[micro, /home/ada/a.yaml, ~/b/c.yaml]'", "--set 'ladder=[micro, a.yaml, c.yaml]'"),
    ("--set training.learning_rate=1e-3", "--set training.learning_rate=1e-3"),
    ("--set", "--set"),
])  # fmt: skip
def test_a_shared_command_has_no_place_of_a_machine(words, shared):
    assert shareable(f"{RUN} {words}") == f"{RUN} {shared}"
    assert shareable(shareable(f"{RUN} {words}")) == f"{RUN} {shared}"
