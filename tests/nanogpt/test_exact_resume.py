"""A training that was stopped or died, anywhere and again and again, ends in the bytes of the uninterrupted one."""

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from nanogpt.config import Config
from nanogpt.results.training import TrainingOutcome
from nanogpt.training import validation
from nanogpt.training.record.metrics import read_rows
from nanogpt.training.resuming import Resumer
from nanogpt.training.saving import Saver
from nanogpt.training.step import Stepper
from nanogpt.training.trainer import Trainer, train
from nanogpt.training.update import growth, loss_scale
from nanogpt.training.update.optimizer import Optimizer
from tests.nanogpt.training_case import (
    TEXT,
    StopAt,
    assert_same,
    crash_in,
    events,
    make_data,
    poison,
    tiny,
    train_with_stops,
)


@pytest.fixture(autouse=True, scope="module")
def short_samples():
    """200 tokens a sample took more time than all else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "SAMPLE_TOKENS", 40)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def little_data(tmp_path_factory) -> Path:
    """Enough for 80 samples, and for two passes an evaluation instead of eleven."""
    return make_data(tmp_path_factory.mktemp("little_data"), TEXT[:4_000])


CASES = {  # settings, and after how many looks at the request to stop each session ends
    "muon, wsd": (dict(), (3, 10)),
    "adamw, cosine": (dict(optimizer="adamw", schedule="cosine", learning_rate=3e-3, weight_decay=0.1), (5,)),
    "accumulation": (dict(batch_size=2, gradient_accumulation=3, max_iters=12), (7, 8, 10)),
    "across epochs, patience": (
        dict(batch_size=64, max_iters=12, eval_interval=2, early_stopping_patience=3, schedule="constant",
             learning_rate=0.3, muon_learning_rate=0.3), (3, 5)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_stopped_anywhere_and_resumed_ends_in_the_same_bytes(data, tmp_path, case):
    settings, all_looks = CASES[case]
    config = tiny(**settings)
    whole = train(config, data, tmp_path / "whole")
    for looks in all_looks:
        outcome = train_with_stops(config, data, tmp_path / str(looks), looks)
        assert_same(outcome, whole, tmp_path / str(looks), tmp_path / "whole")


MOMENTS = [
    (Trainer, "step", 5),
    (Trainer, "step", 12),
    (Trainer, "evaluate", 1),
    (Trainer, "evaluate", 2),
    (Saver, "save", 2),
    (Trainer, "write_sample", 2),
    (Trainer, "finish", 1),
]


@pytest.mark.parametrize(("threads", "moments"), [(1, MOMENTS), (2, [(Trainer, "step", 13)])])
def test_a_crash_at_any_moment_ends_in_the_same_bytes(data, tmp_path, monkeypatch, threads, moments):
    config = tiny(sample_interval=8, max_iters=16, eval_interval=6).with_changes({"device.threads": threads})
    whole = train(config, data, tmp_path / "whole")
    for part, method, call in moments:
        folder = tmp_path / f"{method}{call}"
        crash_in(monkeypatch, part, method, call)
        with pytest.raises(RuntimeError, match="crash"):
            train(config, data, folder)
        monkeypatch.undo()
        assert_same(train(config, data, folder), whole, folder, tmp_path / "whole")
        assert list(read_rows(folder / "samples.jsonl")) == list(read_rows(tmp_path / "whole" / "samples.jsonl"))


METHODS = [
    *((Trainer, method) for method in ("step", "evaluate", "average_validation_loss", "keep_if_best", "write_sample")),
    *((Saver, method) for method in ("save", "write")),
    *((Stepper, method) for method in ("take", "forward_backward")),
    (Optimizer, "step"),
    (Resumer, "rewind"),
    (Trainer, "finish"),
]
STOPS = st.integers(0, 60)  # looks at the request to stop
CRASHES = st.tuples(st.sampled_from(METHODS), st.integers(1, 9))
OPTIMIZERS = [dict(optimizer="muon"), dict(optimizer="adamw", learning_rate=3e-3, weight_decay=0.1)]
BATCHES = [dict(batch_size=4), dict(batch_size=2, gradient_accumulation=2), dict(batch_size=1, gradient_accumulation=4)]
PRECISIONS = [dict(mixed_precision=kind) for kind in (False, "bfloat16", "float16")]
# Settings of a session that may be others in the next one: what is written how often, what is kept for the gradient.
SESSIONS = [{}, {"training.checkpoint_minutes": 1e-9}, {"device.gradient_checkpointing": True}]


@st.composite
def trainings(draw) -> Config:
    """A training of 20 steps with dropout, and anything that its state may hold. It has one layer, others two."""
    options = dict(
        schedule=draw(st.sampled_from(["wsd", "cosine"])), weight_average=draw(st.sampled_from([0.0, 0.8])),
        initial_block_size=draw(st.sampled_from([None, 4])), initial_batch=draw(st.sampled_from([None, 1])),
        eval_interval=draw(st.sampled_from([5, 7])), checkpoint_interval=draw(st.sampled_from([4, 5])),
        sample_interval=draw(st.sampled_from([0, 6])), curriculum_fraction=0.7, decay_fraction=0.3, max_iters=20,
        **draw(st.sampled_from(OPTIMIZERS)), **draw(st.sampled_from(BATCHES)),
    )  # fmt: skip
    config = tiny(**options).with_changes({"model.n_layer": 1})
    device = {**draw(st.sampled_from(PRECISIONS)), "threads": draw(st.sampled_from([1, 1, 2]))}
    return config.with_changes({f"device.{key}": value for key, value in device.items()})


# Not shrunk: a smaller failing case would take minutes to find.
@settings(max_examples=10, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
@given(
    config=trainings(), interruptions=st.lists(st.tuples(STOPS | CRASHES, st.sampled_from(SESSIONS)), min_size=1),
    bad=st.none() | st.integers(2, 15),
)  # fmt: skip
def test_whatever_is_trained_and_however_it_is_interrupted(little_data, config, interruptions, bad):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth, "STEPS_TO_COMPARE", 3)
        patch.setattr(growth, "LEAST_FALL", 0.2)
        patch.setattr(loss_scale, "STEPS_UNTIL_DOUBLED", 3)
        if bad is not None:  # up to three bad steps, so that it goes back
            batch = config.training.initial_batch or 4
            poison(patch, range(batch * bad, batch * (bad + 3)))
        whole_folder, folder = Path(folder) / "whole", Path(folder) / "interrupted"
        whole = train(config, little_data, whole_folder)
        for interruption, changes in interruptions:
            outcome = interrupted(config.with_changes(changes), little_data, folder, interruption)
            if outcome and outcome.status == "finished":
                break
        else:
            outcome = train(config, little_data, folder)
        assert_same(outcome, whole, folder, whole_folder)
        assert list(read_rows(folder / "samples.jsonl")) == list(read_rows(whole_folder / "samples.jsonl"))
        for name in ("batch", "rewound", "skipped"):
            event(f"{name}: {bool(events(whole_folder, name))}")


def interrupted(config: Config, data: Path, folder: Path, interruption) -> TrainingOutcome | None:
    """One session that is stopped after so many looks, or dies in the given call of a method (None)."""
    if isinstance(interruption, int):
        return train(config, data, folder, stop=StopAt(interruption))
    with pytest.MonkeyPatch.context() as patch, suppress(RuntimeError):
        (part, method), call = interruption
        crash_in(patch, part, method, call)
        return train(config, data, folder)
