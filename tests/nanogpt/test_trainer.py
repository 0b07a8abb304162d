"""The training loop: the best kept, bad steps left behind, the clock, the split of a batch."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nanogpt import durable
from nanogpt.config import load_config
from nanogpt.faults import CorruptFileError, NonFiniteError, UserError
from nanogpt.model.gpt import GPT
from nanogpt.training import numerics, saving, stopwatch, validation
from nanogpt.training.child import alone_in
from nanogpt.training.record.metrics import read_rows
from nanogpt.training.record.model_folder import ModelFolder
from nanogpt.training.step import Stepper
from nanogpt.training.stopping import OutOfTime, StopRequested
from nanogpt.training.stopwatch import TrainingClock
from nanogpt.training.trainer import Trainer, train
from nanogpt.training.update import growth
from nanogpt.training.update.loss_scale import LEAST, LossScale
from nanogpt.training.update.schedule import factor_at
from nanogpt.weights import checkpoint
from nanogpt.weights.folders import open_folder
from tests.load import allowed
from tests.nanogpt.training_case import (
    TEXT,
    StopAt,
    assert_same,
    crash_in,
    events,
    losses,
    make_data,
    poison,
    tiny,
    train_with_stops,
)
from tests.not_a_file import in_place_of_a_folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.fast
def test_the_loss_falls_and_every_file_is_there(data, tmp_path):
    outcome = train(tiny(max_iters=40, sample_interval=20, sample_temperatures=[0.5, 0]), data, tmp_path)
    rows = list(read_rows(tmp_path / "metrics.jsonl"))
    assert rows[0]["loss"] == pytest.approx(math.log(outcome_vocabulary(tmp_path)), abs=0.1)
    assert outcome.final_val_loss < rows[0]["loss"] - 0.5
    assert outcome.best_val_loss == min(row["val_loss"] for row in rows if row["kind"] == "eval")
    samples = [(row["step"], row["temperature"]) for row in read_rows(tmp_path / "samples.jsonl")]
    assert samples == [(20, 0.5), (20, 0), (40, 0.5), (40, 0)]
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert names == {
        "config.yaml", "data.json", "tokenizer.json", "tokenizer_config.json", "metrics.jsonl", "samples.jsonl",
        "events.jsonl", "heartbeat", "outcome.json", "checkpoints", "best", "final", "tensorboard",
    }  # fmt: skip


def outcome_vocabulary(folder: Path) -> int:
    return checkpoint.load(folder / "best").weights["token_embedding.weight"].size(0)


def test_a_finished_training_that_is_started_again_changes_nothing(data, tmp_path):
    first = train(tiny(), data, tmp_path)
    again = train(tiny(), data, tmp_path)
    assert (again.sha256, again.best_val_loss, again.step) == (first.sha256, first.best_val_loss, first.step)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 8, 10**20])
def test_the_split_of_the_batch_changes_nothing_but_rounding(data, tmp_path, micro_batch):
    config = tiny(batch_size=4, gradient_accumulation=2, max_iters=8).with_changes({"model.dropout": 0.0})
    expected = [row["loss"] for row in read_rows_of(config, data, tmp_path / "a", None)]
    found = [row["loss"] for row in read_rows_of(config, data, tmp_path / "b", micro_batch)]
    assert found == pytest.approx(expected, rel=2e-4)


def read_rows_of(config, data, folder, micro_batch):
    train(config, data, folder, micro_batch=micro_batch)
    return [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "train"]


@in_place_of_a_folder
def test_what_is_no_folder_makes_way_for_checkpoints(data, tmp_path, put):
    for name in ("checkpoints", "best", "final"):
        put(tmp_path / name)
    assert train(tiny(), data, tmp_path).status == "finished"
    assert checkpoint.load(tmp_path / "best").step and checkpoint.load(tmp_path / "final").step


def test_the_best_is_never_overwritten_by_a_worse_one(data, tmp_path):
    ruinous = tiny(learning_rate=3.0, muon_learning_rate=3.0, schedule="constant", eval_interval=2, max_iters=16)
    outcome = train_with_stops(ruinous, data, tmp_path, looks=5)
    evaluations = [row for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "eval"]
    assert outcome.best_val_loss == min(row["val_loss"] for row in evaluations) < outcome.final_val_loss
    assert checkpoint.load(tmp_path / "best").step == outcome.best_step


@pytest.mark.fast
def test_the_best_of_another_training_is_not_taken_for_this_ones(data, tmp_path):
    train(tiny(), data, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    worse = train(tiny(max_iters=4, warmup_iters=1), data, tmp_path)
    best = checkpoint.load(tmp_path / "best")
    assert (best.step, best.facts["val_loss"]) == (4, worse.final_val_loss) == (worse.best_step, worse.best_val_loss)
    assert len(events(tmp_path, "set aside")) == 1


def test_early_stopping_counts_evaluations_without_gain(data, tmp_path):
    config = tiny(learning_rate=3.0, muon_learning_rate=3.0, schedule="constant", eval_interval=2, max_iters=400,
                  early_stopping_patience=3)  # fmt: skip
    outcome = train(config, data, tmp_path)
    assert outcome.reason == "early stopping"
    assert outcome.step == outcome.best_step + 2 * 3


@pytest.mark.fast
def test_a_step_that_is_not_finite_changes_no_weight(data, tmp_path, monkeypatch):
    poison(monkeypatch, {4 * 5})
    train(tiny(max_iters=6, checkpoint_interval=1, keep_checkpoints=9, weight_average=0.9), data, tmp_path)
    before, after = (checkpoint.load(tmp_path / "checkpoints" / f"step-0000000{step}") for step in (5, 6))
    assert all(torch.equal(before.weights[name], after.weights[name]) for name in before.weights)
    averages = [found.state["average"] for found in (before, after)]
    assert averages[0]["updates"] == averages[1]["updates"] == 5
    assert all(torch.equal(one, other) for one, other in zip(*(state["means"] for state in averages), strict=True))
    assert len(events(tmp_path, "skipped")) == 1


def test_a_spike_is_skipped_once_there_is_a_window_to_judge_by(data, tmp_path, monkeypatch):
    poison(monkeypatch, {4 * 20, 4 * 150}, value=30.0)
    train(tiny(max_iters=160, eval_interval=200, checkpoint_interval=200), data, tmp_path)
    assert [row["step"] for row in events(tmp_path, "skipped")] == [151]


def test_three_bad_steps_go_back_with_half_the_rate_and_other_data(data, tmp_path, monkeypatch):
    poison(monkeypatch, {4 * step for step in (12, 13, 14)})
    config = tiny(schedule="constant")
    whole = train(config, data, tmp_path / "whole")
    assert [row["message"] for row in events(tmp_path / "whole", "rewound")] == [
        "3 bad steps in a row at step 15; back to 8 at 0.5 x learning rate"
    ]
    rows = [row for row in read_rows(tmp_path / "whole" / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 25))
    assert rows[23]["learning_rate"] == pytest.approx(0.5 * config.training.learning_rate)
    for looks in (3, 4):  # and an interruption around it changes nothing
        outcome = train_with_stops(config, data, tmp_path / str(looks), looks)
        assert_same(outcome, whole, tmp_path / str(looks), tmp_path / "whole")


@pytest.mark.parametrize("changes, difference", [
    ({"device.threads": 2}, "threads 1 -> 2"), ({"device.longest_window": 8}, "longest_window None -> 8"),
    ({"device.gradient_checkpointing": True}, None), ({}, None),
])  # fmt: skip
def test_what_computes_otherwise_than_before_is_reported_once(data, tmp_path, changes, difference):
    train(tiny(), data, tmp_path, stop=StopAt(20))
    train(tiny().with_changes(changes), data, tmp_path)
    messages = [row["message"] for row in events(tmp_path, "computes otherwise")]
    assert messages == ([f"not to the byte as before: {difference}"] if difference else [])


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_training_of_before_that_also_dropped_the_weights_of_attention_says_that_it_goes_on_otherwise(
    data, tmp_path, monkeypatch, dropout
):
    config = tiny().with_changes({"model.dropout": dropout})
    facts = saving.Saver.facts
    with monkeypatch.context() as before:
        before.setattr(saving.Saver, "facts", lambda saver: {k: v for k, v in facts(saver).items() if k != "dropped"})
        train(config, data, tmp_path, stop=StopAt(9))
    for stop in (StopAt(12), StopAt(15)):
        train(config, data, tmp_path, stop=stop)
    messages = [row["message"] for row in events(tmp_path, "computes otherwise")]
    otherwise = f"not to the byte as before: dropped {numerics.DROPPED_ONCE} -> {numerics.DROPPED}"
    assert messages == ([otherwise] if dropout else [])


def test_another_micro_batch_is_reported_once_and_then_the_one_that_was(data, tmp_path):
    for micro_batch in (None, 2, 2, None):
        train(tiny(), data, tmp_path, micro_batch=micro_batch, stop=StopAt(9))
    messages = [row["message"] for row in events(tmp_path, "computes otherwise")]
    assert messages == ["not to the byte as before: micro_batch 4 -> 2"]


@pytest.mark.parametrize("keep, interval", [(2, 2), (3, 1)])
@pytest.mark.parametrize("first_bad", [8, 9])
def test_the_fewest_checkpoints_that_may_be_kept_are_enough_to_go_back(data, tmp_path, monkeypatch, keep, interval,
                                                                      first_bad):  # fmt: skip
    poison(monkeypatch, {4 * step for step in range(first_bad, first_bad + 3)})
    config = tiny(max_iters=14, schedule="constant", keep_checkpoints=keep, checkpoint_interval=interval)
    assert train(config, data, tmp_path).status == "finished"
    assert f"back to {first_bad // interval * interval} at" in events(tmp_path, "rewound")[0]["message"]


def test_fewer_are_refused():
    with pytest.raises(ValueError, match="none would be from before 3 bad steps in a row; keep 3, or save less often"):
        tiny(keep_checkpoints=2, checkpoint_interval=1)


def test_a_checkpoint_among_the_bad_steps_is_not_healthy(data, tmp_path, monkeypatch):
    poison(monkeypatch, {4 * step for step in (15, 16, 17)})
    config = tiny(schedule="constant")
    whole = train(config, data, tmp_path / "whole")
    assert "at step 18; back to 8" in events(tmp_path / "whole", "rewound")[0]["message"]
    outcome = train_with_stops(config, data, tmp_path / "stopped", 4)
    assert_same(outcome, whole, tmp_path / "stopped", tmp_path / "whole")


def test_after_three_rewinds_it_gives_up(data, tmp_path, monkeypatch):
    poison(monkeypatch, set(range(4 * 12, 4 * 1000)))
    with pytest.raises(NonFiniteError, match="after 3 rewinds"):
        train(tiny(), data, tmp_path)
    assert len(events(tmp_path, "rewound")) == 3


def test_the_clock_brings_the_cool_down(data, tmp_path):
    config = tiny(max_iters=100_000, eval_interval=50_000, checkpoint_interval=50_000)
    outcome = train(config, data, tmp_path, max_seconds=1.5)
    assert outcome.reason == "out of time" and outcome.seconds < allowed(3)
    assert len(events(tmp_path, "cool-down")) == 1
    rates = [row["learning_rate"] for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert rates[-1] < 0.4 * max(rates)
    assert (tmp_path / "checkpoints" / checkpoint.BEFORE_COOL_DOWN / "manifest.json").is_file()


@pytest.mark.fast
def test_the_clock_ends_a_step_of_a_million_micro_batches(data, tmp_path):
    """Nothing of the step is kept: a longer time continues as if it had never begun."""
    config = tiny(batch_size=1, gradient_accumulation=10**6, max_iters=4)
    outcome = train(config, data, tmp_path, max_seconds=1.0)
    assert (outcome.status, outcome.reason, outcome.step, outcome.tokens) == ("finished", "out of time", 0, 0)
    assert outcome.seconds < allowed(10)
    assert checkpoint.load(tmp_path / "final").step == 0


def test_more_steps_go_on_from_before_the_cool_down(data, tmp_path):
    train(tiny(max_iters=20, decay_fraction=0.5), data, tmp_path / "grown")
    grown = train(tiny(max_iters=40, decay_fraction=0.5), data, tmp_path / "grown")
    straight = train(tiny(max_iters=40, decay_fraction=0.5), data, tmp_path / "straight")
    assert grown.sha256 == straight.sha256
    assert [row["step"] for row in events(tmp_path / "grown", "resumed")] == [10]
    assert load_config(tmp_path / "grown" / "config.yaml").training.max_iters == 40


def test_more_steps_learn_even_where_the_state_before_the_cool_down_is_lost(data, tmp_path):
    shorter, longer = tiny(max_iters=20, decay_fraction=0.5), tiny(max_iters=60, decay_fraction=0.5)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(shorter, data, whole)
    (whole / "checkpoints/before-cooldown/state.pt").write_bytes(b"rotten")
    shutil.copytree(whole, stopped)
    grown = train(longer, data, whole)
    assert train_with_stops(longer, data, stopped, looks=9).sha256 == grown.sha256
    rates = [row["learning_rate"] for row in read_rows(whole / "metrics.jsonl") if row["kind"] == "train"]
    settings = longer.training
    assert rates[20:] == [settings.learning_rate * factor_at(step, settings) for step in range(20, 60)]
    assert len(events(whole, "corrupt checkpoint")) == len(events(whole, "warmed again")) == 1


def test_more_time_changes_nothing_where_steps_were_the_limit(data, tmp_path):
    config = tiny(max_iters=20, decay_fraction=0.5)
    outcome = train(config, data, tmp_path, max_seconds=1e308)  # too many steps for a float to count
    again = train(config, data, tmp_path, max_seconds=1.5e308)
    assert (again.reason, again.sha256) == ("max_iters", outcome.sha256)
    assert [row["step"] for row in events(tmp_path, "resumed")] == [20]


@pytest.mark.fast
def test_more_time_is_trained_on_a_disk_that_is_slow_to_take_the_state_before_the_cool_down(
    data, tmp_path, monkeypatch
):
    """A sequence takes 10 ms and a checkpoint a minute, which says nothing of the time that an evaluation takes."""
    compute, save, now = Stepper.forward_backward, ModelFolder.save, [1000.0]

    def computes(self, data, loss_scale):
        now[0] += 0.01 * data.batch
        return compute(self, data, loss_scale)

    def saves(self, *arguments):
        now[0] += 60
        save(self, *arguments)

    monkeypatch.setattr(Stepper, "forward_backward", computes)
    monkeypatch.setattr(ModelFolder, "save", saves)
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(monotonic=lambda: now[0]))
    seldom = dict(eval_interval=50_000, checkpoint_interval=50_000)
    train(tiny(max_iters=20, **seldom), data, tmp_path, max_seconds=400)
    outcome = train(tiny(max_iters=200, **seldom), data, tmp_path, max_seconds=800)
    assert len(events(tmp_path, "extended")) == 1
    assert (outcome.reason, outcome.step) == ("max_iters", 200)
    rates = [row["learning_rate"] for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert sum(rate == max(rates) for rate in rates) > 0.3 * len(rates)


@pytest.mark.fast
@pytest.mark.parametrize("slow", [1, 8])
def test_one_slow_step_does_not_end_the_training(data, tmp_path, monkeypatch, slow):
    """A sequence takes 10 ms, and one step of each session a second more, as on a busy machine."""
    compute, now, taken = Stepper.forward_backward, [1000.0], [0]

    def computes(self, data, loss_scale):
        taken[0] += 1
        now[0] += 0.01 * data.batch + (taken[0] == slow)
        return compute(self, data, loss_scale)

    monkeypatch.setattr(Stepper, "forward_backward", computes)
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(monotonic=lambda: now[0]))
    config = tiny(max_iters=100_000, eval_interval=50_000, checkpoint_interval=50_000)
    for seconds in (6, 12):
        taken[0] = 0
        outcome = train(config, data, tmp_path, max_seconds=seconds)
        assert outcome.reason == "out of time" and outcome.step > 20 * seconds - 50


@pytest.mark.fast
def test_a_training_that_its_clock_ends_says_about_how_many_steps_it_will_make(data, tmp_path, monkeypatch):
    """A sequence takes 10 ms. What is said begins when the pace is known, and hardly changes."""
    compute, expect, now, said = Stepper.forward_backward, ModelFolder.expect, [1000.0], []

    def computes(self, data, loss_scale):
        now[0] += 0.01 * data.batch
        return compute(self, data, loss_scale)

    def expects(self, steps, is_estimate=False):
        said.append((steps, is_estimate))
        expect(self, steps, is_estimate)

    monkeypatch.setattr(Stepper, "forward_backward", computes)
    monkeypatch.setattr(ModelFolder, "expect", expects)
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(monotonic=lambda: now[0]))
    seldom = dict(eval_interval=50_000, checkpoint_interval=50_000)
    outcome = train(tiny(max_iters=1000, **seldom), data, tmp_path / "by the clock", max_seconds=8)
    unknown, known = [steps for steps, _ in said[:2]], said[2:-1]
    assert unknown == [0, 0] and all(is_estimate for _, is_estimate in known)
    assert all(abs(steps / outcome.step - 1) < 0.1 for steps, _ in known) and said[-1] == (outcome.step, False)
    said.clear()
    train(tiny(max_iters=20, **seldom), data, tmp_path / "by its steps", max_seconds=100)
    assert said[0][0] == 0 and set(said[2:]) == {(20, False)}


def test_bad_steps_soon_after_a_cool_down_was_taken_back_go_back_to_the_one_before_it(data, tmp_path, monkeypatch):
    settings = dict(decay_fraction=0.65, checkpoint_interval=4)
    train(tiny(max_iters=40, **settings), data, tmp_path)
    poison(monkeypatch, {4 * step for step in (15, 16, 17)})
    outcome = train(tiny(max_iters=48, **settings), data, tmp_path)
    assert (outcome.step, outcome.rewinds) == (48, 1)
    assert [row["message"].split(";")[1][:11] for row in events(tmp_path, "rewound")] == [" back to 14"]


def test_a_corrupt_checkpoint_is_left_for_the_one_before(data, tmp_path):
    whole = train(tiny(), data, tmp_path / "whole")
    folder = tmp_path / "hurt"
    train(tiny(), data, folder, stop=StopAt(19))
    newest = list(checkpoint.steps_in(folder / "checkpoints"))[-1]
    (newest / "model.safetensors").write_bytes(b"garbage")
    assert train(tiny(), data, folder).sha256 == whole.sha256
    assert len(events(folder, "corrupt checkpoint")) == 1
    assert newest.with_name(f"{newest.name}.bad").is_dir()


@pytest.mark.fast
def test_other_settings_or_data_are_refused_by_name(data, tmp_path):
    train(tiny(), data, tmp_path / "m", stop=StopAt(3))
    with pytest.raises(UserError, match=r"training\.learning_rate 0\.01 -> 0\.02"):
        train(tiny(learning_rate=0.02), data, tmp_path / "m")
    with pytest.raises(UserError, match="effective batch 4 -> 8"):
        train(tiny(batch_size=8), data, tmp_path / "m")
    other = make_data(tmp_path / "other", TEXT.replace("sheep", "ships"))
    with pytest.raises(UserError, match=r"data [0-9a-f]{12} -> [0-9a-f]{12}\b"):
        train(tiny(), other, tmp_path / "m")


@pytest.mark.fast
def test_a_refusal_leaves_a_finished_training_as_it_is(data, tmp_path):
    train(tiny(max_iters=3, warmup_iters=1), data, tmp_path / "m")
    kept = {name: (tmp_path / "m" / name).read_bytes() for name in ("outcome.json", "config.yaml", "metrics.jsonl")}
    with pytest.raises(UserError, match="other settings"):
        train(tiny(max_iters=3, warmup_iters=1, learning_rate=0.02), data, tmp_path / "m")
    assert kept == {name: (tmp_path / "m" / name).read_bytes() for name in kept}
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "m"):
        with pytest.raises(UserError, match="is a file"):
            train(tiny(), data, place)
        with pytest.raises(UserError, match="is a file"), alone_in(place):
            pass


@pytest.mark.fast
@pytest.mark.parametrize("name", ["val.bin", "tokenizer.json"])
def test_data_with_a_flipped_bit_is_not_learned_from(data, tmp_path, name):
    folder = shutil.copytree(data, tmp_path / "data")
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CorruptFileError, match=name):
        train(tiny(), folder, tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.fast
def test_a_vocabulary_smaller_than_the_data_is_refused(data, tmp_path):
    with pytest.raises(UserError, match="vocab_size: found 3"):
        train(tiny().with_changes({"model.vocab_size": 3}), data, tmp_path)
    assert not list(tmp_path.iterdir())


def test_torn_metrics_are_mended_on_resume(data, tmp_path):
    whole = train(tiny(), data, tmp_path / "whole")
    folder = tmp_path / "torn"
    train(tiny(), data, folder, stop=StopAt(12))
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"kind": "train", "st')
    assert train(tiny(), data, folder).sha256 == whole.sha256
    assert losses(folder) == losses(tmp_path / "whole")


def test_rows_that_are_changed_while_it_trains_are_written_again(data, tmp_path, monkeypatch):
    """Before a checkpoint, and after the last one; what is saved is what was written, not what was found."""
    monkeypatch.setattr(validation, "SAMPLE_TOKENS", 10)
    config, folder = tiny(max_iters=5, eval_interval=2, checkpoint_interval=4, sample_interval=2), tmp_path / "changed"
    whole = train(config, data, tmp_path / "whole")

    def changed_after(method: str, step: int):
        real = getattr(Trainer, method)

        def then_a_cat_walks_over_it(trainer, *arguments):
            real(trainer, *arguments)
            if trainer.state.progress.step == step and trainer.folder.path == folder:
                metrics = folder / "metrics.jsonl"
                metrics.write_bytes(metrics.read_bytes().replace(b'"loss": ', b'"loss": 7'))
                (folder / "samples.jsonl").unlink()

        monkeypatch.setattr(Trainer, method, then_a_cat_walks_over_it)

    changed_after("log_step", 3)
    changed_after("write_sample", 5)
    assert_same(train(config, data, folder), whole, folder, tmp_path / "whole")
    assert [row["message"] for row in events(folder, "rewritten")] == [
        f"{name} was changed from outside at step {step}: written again"
        for step in (3, 5) for name in ("metrics.jsonl", "samples.jsonl")
    ]  # fmt: skip
    assert list(read_rows(folder / "samples.jsonl")) == list(read_rows(tmp_path / "whole" / "samples.jsonl"))


@pytest.mark.fast
@pytest.mark.parametrize("asked, ending", [
    (StopRequested, ("stopped", "asked to stop")), (OutOfTime, ("finished", "out of time")),
])  # fmt: skip
def test_a_training_that_has_to_end_while_its_device_is_compared_is_saved(data, tmp_path, monkeypatch, asked, ending):
    def gathers_its_pass(stepper):
        raise asked  # as it does on an accelerator where Ctrl-C came while the model was made

    with monkeypatch.context() as change:
        change.setattr(Stepper, "check_device", gathers_its_pass)
        outcome = train(tiny(), data, tmp_path, max_seconds=100)
    assert (outcome.status, outcome.reason) == ending
    assert train(tiny(), data, tmp_path, max_seconds=100).step == 24


@pytest.mark.fast
def test_checkpoints_that_are_removed_while_it_trains_are_reported_at_the_next(data, tmp_path, monkeypatch):
    real, folder = Trainer.log_step, tmp_path / "removed"

    def then_they_are_removed(trainer, *arguments):
        real(trainer, *arguments)
        if trainer.state.progress.step == 10 and trainer.folder.path == folder:
            shutil.rmtree(folder / "checkpoints")

    whole = train(tiny(), data, tmp_path / "whole")
    monkeypatch.setattr(Trainer, "log_step", then_they_are_removed)
    assert train(tiny(), data, folder).sha256 == whole.sha256
    (event,) = events(folder, "checkpoint missing")
    assert event["message"] == f"{folder / 'checkpoints/step-00000008'} is gone: it was removed from outside"


@pytest.mark.fast
def test_tokens_are_all_that_were_seen_also_after_a_rewind(data, tmp_path, monkeypatch):
    poison(monkeypatch, {4 * step for step in (12, 13, 14)})
    outcome = train(tiny(schedule="constant"), data, tmp_path)
    assert (outcome.step, outcome.skipped, outcome.rewinds) == (24, 3, 1)
    assert outcome.tokens == (24 + 15 - 8) * 4 * 16  # steps 8 to 15 were taken back and made again on other data
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["tokens"] for row in rows][7:9] == [8 * 4 * 16, (15 + 1) * 4 * 16]


@pytest.mark.fast
def test_the_batch_grows_while_the_loss_stands_still(data, tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "STEPS_TO_COMPARE", 5)
    still = dict(learning_rate=1e-9, muon_learning_rate=1e-9, embedding_learning_rate=1e-9, schedule="constant")
    outcome = train(tiny(max_iters=40, initial_batch=1, **still), data, tmp_path)
    growths = [(row["step"], row["message"].split(": ")[1]) for row in events(tmp_path, "batch")]
    assert growths == [(10, "1 -> 2 sequences a step"), (20, "2 -> 4 sequences a step")]
    assert outcome.tokens == (10 * 1 + 10 * 2 + 20 * 4) * 16


def test_the_clock_is_right_for_a_batch_that_grew(data, tmp_path, monkeypatch):
    """On a machine where a sequence takes 10 ms and nothing else takes time."""
    monkeypatch.setattr(growth, "STEPS_TO_COMPARE", 5)
    real, now = Stepper.forward_backward, [1000.0]

    def compute(self, data, loss_scale):
        now[0] += 0.01 * data.batch
        return real(self, data, loss_scale)

    monkeypatch.setattr(Stepper, "forward_backward", compute)
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(monotonic=lambda: now[0]))
    still = dict(learning_rate=1e-9, muon_learning_rate=1e-9, embedding_learning_rate=1e-9)
    config = tiny(max_iters=100_000, eval_interval=50_000, checkpoint_interval=50_000, initial_batch=1, batch_size=16)
    outcome = train(config.with_changes({f"training.{k}": v for k, v in still.items()}), data, tmp_path, max_seconds=24)
    assert [row["step"] for row in events(tmp_path, "batch")] == [10, 20, 30, 40]
    assert outcome.reason == "out of time" and outcome.seconds == pytest.approx(24, abs=0.3)
    rates = [row["learning_rate"] for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert rates.index(max(rates)) < len(rates) * 0.1 and sum(rate == max(rates) for rate in rates) < 0.5 * len(rates)
    assert rates[-1] < 0.1 * max(rates)


@pytest.mark.fast
def test_the_average_is_kept_as_the_best_where_it_is_better(data, tmp_path):
    noisy = tiny(weight_average=0.9, schedule="constant", learning_rate=0.1, muon_learning_rate=0.1, eval_interval=4)
    outcome = train(noisy, data, tmp_path)
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "eval"]
    best, final = (checkpoint.load(tmp_path / name) for name in ("best", "final"))
    assert outcome.best_is_average and best.facts["averaged"]
    assert outcome.best_val_loss == min(row["average_val_loss"] for row in rows) < min(row["val_loss"] for row in rows)
    assert any(not torch.equal(best.weights[name], final.weights[name]) for name in final.weights)
    trained, _ = open_folder(tmp_path)  # what everything else opens
    name, weight = next(trained.named_parameters())
    assert torch.equal(weight, best.weights[name])


@pytest.mark.fast
def test_without_an_average_the_best_are_weights_of_a_step(data, tmp_path):
    outcome = train(tiny(), data, tmp_path)
    assert not outcome.best_is_average and checkpoint.load(tmp_path / "best").facts["averaged"] is False
    assert not any("average_val_loss" in row for row in read_rows(tmp_path / "metrics.jsonl"))


def test_one_more_checkpoint_when_minutes_have_passed(data, tmp_path, monkeypatch):
    config = tiny(checkpoint_interval=20, eval_interval=20)
    train(config, data, tmp_path / "seldom", stop=StopAt(8))
    assert [path.name for path in checkpoint.steps_in(tmp_path / "seldom" / "checkpoints")][:-1] == ["step-00000000"]
    minutes = iter(range(1000))  # a minute passes at each look
    monkeypatch.setattr(TrainingClock, "minutes_since_saved", lambda self: next(minutes) % 6)
    often = config.with_changes({"training.checkpoint_minutes": 5.0})
    crash_in(monkeypatch, Trainer, "step", 9)
    with pytest.raises(RuntimeError, match="crash"):
        train(often, data, tmp_path / "often")
    newest = checkpoint.load_newest(tmp_path / "often" / "checkpoints", pytest.fail)
    assert newest.step in range(4, 9)


def test_the_micro_batch_of_the_session_before_is_kept_unless_another_is_asked_for(data, tmp_path):
    config = tiny(batch_size=4, max_iters=12)
    whole = train(config, data, tmp_path / "whole", micro_batch=1)
    train(config, data, tmp_path / "m", micro_batch=1, stop=StopAt(9))
    assert train(config, data, tmp_path / "m").sha256 == whole.sha256
    newest = checkpoint.load_newest(tmp_path / "m" / "checkpoints", pytest.fail)
    assert (newest.facts["micro_batch"], newest.facts["batch_size"]) == (1, 4)
    train(config, data, tmp_path / "n", micro_batch=1, stop=StopAt(9))
    train(tiny(batch_size=2, gradient_accumulation=2, max_iters=12), data, tmp_path / "n")
    assert checkpoint.load_newest(tmp_path / "n" / "checkpoints", pytest.fail).facts["micro_batch"] == 2


@pytest.mark.fast
def test_a_checkpoint_says_how_it_was_made(data, tmp_path):
    config = tiny(max_iters=3, warmup_iters=1)
    train(config, data, tmp_path)
    facts = checkpoint.load(tmp_path / "final").facts
    assert (facts["torch"], facts["numpy"]) == (torch.__version__, np.__version__)
    assert facts["config_sha256"] == durable.digest(load_config(tmp_path / "config.yaml").model_dump())
    assert facts["trajectory"]["data"] == durable.sha256_file(data / "manifest.json")


@pytest.mark.fast
def test_a_run_from_before_these_settings_goes_on(data, tmp_path):
    """A checkpoint as part 1 wrote it, when there were no kernels: without the keys and facts that came since."""
    by_torch = tiny().with_changes({"device.kernels": "torch"})
    whole = train(by_torch, data, tmp_path / "whole")
    train(by_torch, data, tmp_path / "old", stop=StopAt(12))
    found = checkpoint.load_newest(tmp_path / "old" / "checkpoints", pytest.fail)
    known = ("micro_batch", "device", "precision", "newton_schulz", "threads", "torch")
    facts = {key: found.facts[key] for key in known}
    since = ("weight_average", "initial_b", "init_from", "lora_rank")
    old = {key: value for key, value in found.facts["trajectory"].items() if not key[9:].startswith(since)}
    state = {key: value for key, value in found.state.items() if key != "average"}
    for key in ("loss_scale", "growth", "curriculum_steps"):
        del state["progress"][key]
    model = GPT(load_config(tmp_path / "old" / "config.yaml").model)
    checkpoint.put_weights(model, found.weights, "")
    checkpoint.save(found.folder, model, step=found.step, facts={**facts, "trajectory": old}, state=state)
    assert train(tiny(), data, tmp_path / "old").sha256 == whole.sha256


def test_float32_has_all_its_attempts_after_float16_gave_up(data, tmp_path, monkeypatch):
    """The last remedy continues in float32 on the CPU: what was bad in float16 is not held against it."""
    real = Stepper.forward_backward

    def compute(self, data, loss_scale):
        loss, norm = real(self, data, loss_scale)
        bad_here = self.numerics.precision == "float16" and data.cursor >= 4 * 12
        return (math.nan if bad_here or data.cursor in FLOAT32_BAD else loss), norm

    FLOAT32_BAD = {4 * step for step in range(30, 33)}
    monkeypatch.setattr(Stepper, "forward_backward", compute)
    config = tiny(schedule="constant", max_iters=40)
    half = config.with_changes({"device.mixed_precision": "float16"})
    with pytest.raises(NonFiniteError, match="after 3 rewinds"):
        train(half, data, tmp_path)
    assert checkpoint.load_newest(tmp_path / "checkpoints", pytest.fail).state["progress"]["rewinds"] == 3
    outcome = train(config, data, tmp_path)
    assert (outcome.status, outcome.step, outcome.rewinds) == ("finished", 40, 1)
    assert len(events(tmp_path, "rewound")) == 4 and "float16 -> float32" in str(events(tmp_path, "computes otherwise"))


def test_a_float16_overflow_is_skipped_and_no_bad_step(data, tmp_path, monkeypatch):
    """Four in a row, more than it takes to go back: the scale is to blame until it cannot be lowered."""
    real = Stepper.forward_backward

    def compute(self, data, loss_scale):
        loss, norm = real(self, data, loss_scale)
        return loss, math.inf if data.cursor in range(4 * 5, 4 * 9) else norm

    monkeypatch.setattr(Stepper, "forward_backward", compute)
    config = tiny(max_iters=12).with_changes({"device.mixed_precision": "float16"})
    outcome = train(config, data, tmp_path / "high")
    assert (outcome.step, outcome.rewinds, outcome.skipped, outcome.precision) == (12, 0, 0, "float16")
    assert len(events(tmp_path / "high", "skipped")) == 4
    monkeypatch.setattr(LossScale.__init__, "__defaults__", (LEAST, 0))
    train(config, data, tmp_path / "low")
    assert len(events(tmp_path / "low", "rewound")) == 1


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_learns_as_float32_does(data, tmp_path, precision):
    config = tiny(max_iters=60)
    half = train(config.with_changes({"device.mixed_precision": precision}), data, tmp_path / "half")
    assert half.final_val_loss == pytest.approx(train(config, data, tmp_path / "whole").final_val_loss, abs=0.05)


def test_a_model_that_begins_with_the_weights_of_another(data, tmp_path):
    first = train(tiny(), data, tmp_path / "first")
    tuned = tiny(init_from=str(tmp_path / "first"), eval_interval=1, max_iters=8, learning_rate=1e-4,
                 muon_learning_rate=1e-4, embedding_learning_rate=1e-4)  # fmt: skip
    whole = train(tuned, data, tmp_path / "tuned")
    rows = [row for row in read_rows(tmp_path / "tuned" / "metrics.jsonl") if row["kind"] == "eval"]
    assert rows[0]["val_loss"] == pytest.approx(first.best_val_loss, abs=0.02)
    assert "first" in events(tmp_path / "tuned", "initial weights")[0]["message"]
    outcome = train_with_stops(tuned, data, tmp_path / "stopped", 5)
    assert_same(outcome, whole, tmp_path / "stopped", tmp_path / "tuned")


def test_adapters_are_trained_and_resumed_and_their_best_is_a_plain_model(data, tmp_path):
    train(tiny(), data, tmp_path / "first")
    tuned = tiny(init_from=str(tmp_path / "first"), lora_rank=2, max_iters=12, weight_average=0.5)
    whole = train(tuned, data, tmp_path / "tuned")
    outcome = train_with_stops(tuned, data, tmp_path / "stopped", 5)
    assert_same(outcome, whole, tmp_path / "stopped", tmp_path / "tuned")
    first, best = (checkpoint.load(tmp_path / name / "best") for name in ("first", "tuned"))
    changed = {name for name in first.weights if not torch.equal(first.weights[name], best.weights[name])}
    assert first.weights.keys() == best.weights.keys()
    assert changed and all(name.startswith("blocks.") and first.weights[name].dim() == 2 for name in changed)
