"""The state is one object: what its state_dict() gives is all that another needs to continue to the same bytes."""

import pytest

from nanogpt.faults import UserError
from nanogpt.training import numerics as numerical
from nanogpt.training import trainer
from nanogpt.training.job import TrainingJob
from nanogpt.training.record.model_folder import ModelFolder
from nanogpt.training.record.recorder import NoRecord
from nanogpt.training.state import TrainingState
from nanogpt.training.stopping import StopRequest
from tests.nanogpt.training_case import assert_equal_states, make_data, through_a_file, tiny

pytestmark = pytest.mark.fast
SETTINGS = [
    dict(),
    dict(optimizer="adamw", learning_rate=3e-3, weight_average=0.9),
    dict(initial_batch=1, initial_block_size=4, curriculum_fraction=0.5),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def built(data, folder, config) -> trainer.Trainer:
    job = TrainingJob.checked(config, data, folder)
    return trainer.build(job, ModelFolder(job.folder, job.config), StopRequest())


@pytest.mark.parametrize("settings", SETTINGS)
def test_another_trainer_goes_on_from_it_to_the_same_bytes(data, tmp_path, settings):
    one, other = (built(data, tmp_path / name, tiny(**settings)) for name in ("one", "other"))
    for _ in range(7):
        one.stepper.take()
    middle = through_a_file(one.state.state_dict())
    results = [one.stepper.take() for _ in range(5)]
    end = through_a_file(one.state.state_dict())
    other.state.load_state_dict(middle)
    assert_equal_states(through_a_file(other.state.state_dict()), middle)
    assert [other.stepper.take() for _ in range(5)] == results
    assert_equal_states(through_a_file(other.state.state_dict()), end)
    for each in (one, other):
        each.folder.close()


def test_the_trainer_is_built_whole_before_its_first_step(data, tmp_path):
    made = built(data, tmp_path / "m", tiny(weight_average=0.5))
    before = set(vars(made))
    assert (made.state.progress.step, made.saver.saved_step) == (0, -1)
    assert made.state is made.stepper.state is made.saver.state is made.resumer.state is made.cool_down.state
    assert made.run().step == 24
    assert set(vars(made)) == before  # no part appears on the way
    resumed = built(data, tmp_path / "m", tiny(weight_average=0.5))
    assert (resumed.state.progress.step, resumed.saver.saved_step) == (24, 24)
    resumed.folder.close()


def test_a_state_of_another_architecture_is_refused(data):
    config = tiny().with_changes({"model.vocab_size": 50})
    numerics, _ = numerical.choose(config.device, {})
    wide = TrainingState.at_start(config.with_changes({"model.n_embd": 32}), numerics, NoRecord())
    with pytest.raises(UserError, match=r"x: another architecture: .*is \(50, 32\) there, \(50, 16\) here"):
        TrainingState.at_start(config, numerics, NoRecord()).load_state_dict(wide.state_dict(), "x")
