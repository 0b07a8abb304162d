"""What is the same training, and what a folder is refused for."""

import pytest

from nanogpt.config import Config
from nanogpt.faults import UserError
from nanogpt.training.progress import Progress, check_same_training, trajectory
from nanogpt.training.update.growth import BatchGrowth
from nanogpt.training.update.loss_scale import LossScale
from nanogpt.training.update.schedule import CoolDown

pytestmark = pytest.mark.fast

NEW = ("weight_average", "initial_block_size", "initial_batch", "init_from", "lora_rank")


def changed(**values) -> Config:
    """The default configuration with these values of training."""
    return Config().with_changes({f"training.{key}": value for key, value in values.items()})


def check(before: Config, now: Config, schedule: str = "wsd") -> None:
    check_same_training(trajectory(before, "a" * 64), trajectory(now, "a" * 64), schedule, "here")


@pytest.mark.parametrize(
    "key, value",
    [("sample_temperatures", [1.0]), ("sample_interval", 7), ("checkpoint_minutes", 1.0), ("checkpoint_interval", 7),
     ("max_seconds", 9.0), ("curriculum_fraction", 0.5), ("lora_alpha", 3.0), ("eval_interval", 7)],
)  # fmt: skip
def test_what_leaves_the_weights_alone_may_change(key, value):
    check(Config(), changed(**{key: value}))


@pytest.mark.parametrize(
    "key, value",
    [("learning_rate", 0.5), ("weight_average", 0.9), ("initial_block_size", 32), ("initial_batch", 3), ("seed", 2)],
)
def test_what_decides_the_weights_may_not(key, value):
    with pytest.raises(UserError, match=rf"^here: .*training\.{key} .* -> {value}"):
        check(Config(), changed(**{key: value}))


def test_each_field_of_another_architecture_is_named():
    other = Config().with_changes({"model.n_layer": 2, "model.activation": "gelu"})
    with pytest.raises(UserError, match=r"model\.activation swiglu -> gelu, model\.n_layer 6 -> 2"):
        check(Config(), other)


def test_another_speed_of_growth_matters_where_there_is_growth():
    before, now = (changed(initial_block_size=32, curriculum_fraction=share) for share in (0.2, 0.3))
    with pytest.raises(UserError, match=r"curriculum_fraction 0\.2 -> 0\.3"):
        check(before, now)


def test_of_digests_the_beginning_is_shown():
    with pytest.raises(UserError, match=r"\(data a{12} -> b{12}\)"):
        check_same_training(trajectory(Config(), "a" * 64), trajectory(Config(), "b" * 64), "wsd", "here")


def test_more_steps_are_the_same_training_under_wsd_only():
    check(Config(), changed(max_iters=9000))
    more = changed(max_iters=9000)
    for before, now, schedule in [(Config(), more, "cosine"), (more, Config(), "wsd")]:
        with pytest.raises(UserError, match="max_iters"):
            check(before, now, schedule)


def test_a_checkpoint_from_before_a_setting_existed_has_its_default():
    old = {key: value for key, value in trajectory(Config(), "d").items() if key.removeprefix("training.") not in NEW}
    assert len(old) == len(trajectory(Config(), "d")) - len(NEW)
    check_same_training(old, trajectory(Config(), "d"), "wsd", "here")
    with pytest.raises(UserError, match=r"training\.weight_average 0\.0 -> 0\.9"):
        check_same_training(old, trajectory(changed(weight_average=0.9), "d"), "wsd", "here")


def test_a_finished_training_is_not_made_again_for_a_setting_that_came_later():
    """A marker holds the trajectory: one more key with its default would be another training to the ledger."""
    assert "training.muon_interval" not in trajectory(Config(), "d")
    assert trajectory(changed(muon_interval=2), "d")["training.muon_interval"] == 2
    with pytest.raises(UserError, match=r"training\.muon_interval 1 -> 2"):
        check(Config(), changed(muon_interval=2))


def test_progress_goes_through_a_checkpoint():
    progress = Progress(
        step=7,
        cursor=99,
        cool_down=CoolDown(5, 9, 0.5),
        best_val_loss=2.0,
        rewinds=1,
        loss_scale=LossScale(256.0, 3),
        growth=BatchGrowth(4, 16, 2.5, [2.0]),
        curriculum_steps=30,
    )
    progress.stability.judge(2.0, 1.0)
    assert Progress.from_state_dict(progress.state_dict()) == progress


def test_the_progress_of_an_older_checkpoint_is_understood():
    old = Progress(step=7, cursor=28).state_dict()
    for key in ("loss_scale", "growth", "curriculum_steps"):
        del old[key]
    del old["stability"]["recent"]
    assert Progress.from_state_dict(old) == Progress(step=7, cursor=28)


def test_at_the_start_growth_is_as_the_settings_say():
    progress = Progress.at_start(changed(initial_batch=3, initial_block_size=32, max_iters=1000))
    assert (progress.growth, progress.curriculum_steps) == (BatchGrowth(3, 12), 300)
    assert Progress.at_start(Config()) == Progress()
