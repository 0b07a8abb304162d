"""The training loop: exact resume, the best kept, bad steps left behind, the clock, the split of a batch."""

import math
import shutil
from pathlib import Path

import pytest
import torch

from nanogpt.config import Config, load_config
from nanogpt.faults import CorruptFileError, NonFiniteError, UserError
from nanogpt.training import checkpoint
from nanogpt.training.lifeline import StopRequest
from nanogpt.training.metrics import read_rows
from nanogpt.training.trainer import Outcome, Trainer, train
from tests.nanogpt.training_case import TEXT, events, losses, make_data, tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


class StopAt(StopRequest):
    """A wish to stop that comes after so many looks at `requested`: any boundary, between micro-batches as well."""

    def __init__(self, looks: int):
        super().__init__()
        self.looks = looks

    @property
    def requested(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    @requested.setter
    def requested(self, value: bool) -> None:
        pass


def train_with_stops(config: Config, data: Path, folder: Path, looks: int, **options) -> Outcome:
    """Train in sessions that each are stopped after `looks` looks."""
    for _ in range(200):
        outcome = train(config, data, folder, stop=StopAt(looks), **options)
        if outcome.status == "finished":
            return outcome
    raise AssertionError("never finished")


CASES = {  # settings, and after how many looks at the wish to stop each session ends
    "muon, wsd": (dict(), (2, 7)),
    "adamw, cosine": (dict(optimizer="adamw", schedule="cosine", learning_rate=3e-3, weight_decay=0.1), (3,)),
    "accumulation": (dict(batch_size=2, gradient_accumulation=3, max_iters=12), (4, 5, 6)),
    "across epochs, patience": (
        dict(batch_size=64, max_iters=12, eval_interval=2, early_stopping_patience=3, schedule="constant",
             learning_rate=0.3, muon_learning_rate=0.3), (2, 3)
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


MOMENTS = [("step", 5), ("step", 12), ("evaluate", 1), ("evaluate", 2), ("save", 2), ("write_sample", 2), ("finish", 1)]


@pytest.mark.parametrize(("threads", "moments"), [(1, MOMENTS), (2, [("step", 13)])])
def test_a_crash_at_any_moment_ends_in_the_same_bytes(data, tmp_path, monkeypatch, threads, moments):
    config = tiny(sample_interval=8, max_iters=16, eval_interval=6).with_changes({"device.threads": threads})
    whole = train(config, data, tmp_path / "whole")
    for method, call in moments:
        folder = tmp_path / f"{method}{call}"
        crash_in(monkeypatch, method, call)
        with pytest.raises(RuntimeError, match="crash"):
            train(config, data, folder)
        monkeypatch.undo()
        assert_same(train(config, data, folder), whole, folder, tmp_path / "whole")
        assert list(read_rows(folder / "samples.jsonl")) == list(read_rows(tmp_path / "whole" / "samples.jsonl"))


def assert_same(outcome: Outcome, whole: Outcome, folder: Path, whole_folder: Path) -> None:
    assert (outcome.sha256, outcome.step, outcome.reason) == (whole.sha256, whole.step, whole.reason)
    assert losses(folder) == losses(whole_folder)
    assert read_best(folder) == read_best(whole_folder)


def crash_in(monkeypatch, method: str, call: int) -> None:
    """Raise after the `call`-th call of a method of Trainer has done its work."""
    real, calls = getattr(Trainer, method), []

    def crashing(self, *args):
        result = real(self, *args)
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("crash")
        return result

    monkeypatch.setattr(Trainer, method, crashing)


def read_best(folder: Path) -> tuple[int, dict]:
    manifest = checkpoint.read_manifest(folder / "best")
    return manifest["step"], manifest["files"]


@pytest.mark.fast
def test_the_loss_falls_and_every_file_is_there(data, tmp_path):
    outcome = train(tiny(max_iters=40, sample_interval=20), data, tmp_path)
    rows = list(read_rows(tmp_path / "metrics.jsonl"))
    assert rows[0]["loss"] == pytest.approx(math.log(outcome_vocabulary(tmp_path)), abs=0.1)
    assert outcome.final_val_loss < rows[0]["loss"] - 0.5
    assert outcome.best_val_loss == min(row["val_loss"] for row in rows if row["kind"] == "eval")
    assert [row["step"] for row in read_rows(tmp_path / "samples.jsonl")] == [20, 40]
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert names == {
        "config.yaml", "data.json", "tokenizer.json", "tokenizer_config.json", "metrics.jsonl", "samples.jsonl",
        "events.jsonl", "heartbeat", "outcome.json", "checkpoints", "best", "final",
    }  # fmt: skip


def outcome_vocabulary(folder: Path) -> int:
    return checkpoint.load(folder / "best").weights["token_embedding.weight"].size(0)


def test_a_finished_training_that_is_started_again_changes_nothing(data, tmp_path):
    first = train(tiny(), data, tmp_path)
    again = train(tiny(), data, tmp_path)
    assert (again.sha256, again.best_val_loss, again.step) == (first.sha256, first.best_val_loss, first.step)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 8])
def test_the_split_of_the_batch_changes_nothing_but_rounding(data, tmp_path, micro_batch):
    config = tiny(batch_size=4, gradient_accumulation=2, max_iters=8).with_changes({"model.dropout": 0.0})
    expected = [row["loss"] for row in read_rows_of(config, data, tmp_path / "a", None)]
    found = [row["loss"] for row in read_rows_of(config, data, tmp_path / "b", micro_batch)]
    assert found == pytest.approx(expected, rel=2e-4)


def read_rows_of(config, data, folder, micro_batch):
    train(config, data, folder, micro_batch=micro_batch)
    return [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "train"]


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


def poison(monkeypatch, poisoned, value: float = math.nan) -> None:
    """Make the loss of the steps whose first sample is in `poisoned` wrong: bad data stays bad wherever it comes."""
    real = Trainer.compute_gradients

    def compute(self):
        loss, norm = real(self)
        return (loss * value, norm) if self.progress.cursor in poisoned else (loss, norm)

    monkeypatch.setattr(Trainer, "compute_gradients", compute)


@pytest.mark.fast
def test_a_step_that_is_not_finite_changes_no_weight(data, tmp_path, monkeypatch):
    poison(monkeypatch, {4 * 5})
    train(tiny(max_iters=6, checkpoint_interval=1, keep_checkpoints=9), data, tmp_path)
    weights = [checkpoint.load(tmp_path / "checkpoints" / f"step-0000000{step}").weights for step in (5, 6)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
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
    assert outcome.reason == "out of time" and outcome.seconds < 3
    assert len(events(tmp_path, "cool-down")) == 1
    rates = [row["learning_rate"] for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert rates[-1] < 0.4 * max(rates)
    assert (tmp_path / "checkpoints" / checkpoint.BEFORE_COOL_DOWN / "manifest.json").is_file()


def test_more_steps_go_on_from_before_the_cool_down(data, tmp_path):
    train(tiny(max_iters=20, decay_fraction=0.5), data, tmp_path / "grown")
    grown = train(tiny(max_iters=40, decay_fraction=0.5), data, tmp_path / "grown")
    straight = train(tiny(max_iters=40, decay_fraction=0.5), data, tmp_path / "straight")
    assert grown.sha256 == straight.sha256
    assert [row["step"] for row in events(tmp_path / "grown", "resumed")] == [10]
    assert load_config(tmp_path / "grown" / "config.yaml").training.max_iters == 40


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
    with pytest.raises(UserError, match=r"data [0-9a-f]{64} -> [0-9a-f]{64}"):
        train(tiny(), other, tmp_path / "m")


@pytest.mark.fast
def test_a_refusal_leaves_a_finished_training_as_it_is(data, tmp_path):
    train(tiny(max_iters=3, warmup_iters=1), data, tmp_path / "m")
    kept = {name: (tmp_path / "m" / name).read_bytes() for name in ("outcome.json", "config.yaml", "metrics.jsonl")}
    with pytest.raises(UserError, match="other settings"):
        train(tiny(max_iters=3, warmup_iters=1, learning_rate=0.02), data, tmp_path / "m")
    assert kept == {name: (tmp_path / "m" / name).read_bytes() for name in kept}
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        train(tiny(), data, tmp_path / "file")


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
