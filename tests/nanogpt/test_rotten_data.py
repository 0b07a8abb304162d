"""Data that rots while it is learned from: no checkpoint holds what it taught."""

import shutil
from pathlib import Path

import pytest

from nanogpt.faults import CORRUPT_FILE, CorruptFileError, classify
from nanogpt.results.training import TrainingOutcome
from nanogpt.training import data_folder
from nanogpt.training.trainer import Trainer, train
from tests.nanogpt.training_case import assert_same, make_data, tiny

HEADER = 64  # bytes of a shard before its ids


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def undisturbed(whole, tmp_path_factory) -> tuple[TrainingOutcome, Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return train(tiny(), whole, folder), folder


def at_step(monkeypatch, step: int, damage) -> None:
    real = Trainer.step

    def stepping(self):
        if self.state.progress.step == step:
            damage()
        real(self)

    monkeypatch.setattr(Trainer, "step", stepping)


def flip_every_id(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    for at in range(HEADER, len(content), 2):
        content[at] ^= bit
    with open(path, "r+b") as file:  # in place: the trainer's map shows it
        file.write(content)


@pytest.mark.parametrize(
    "name, words",
    [("train.bin", "train.bin changed"), ("val.bin", "val.bin changed"), ("manifest.json", "manifest.json")],
)
def test_wrong_ids_reach_no_checkpoint(whole, undisturbed, tmp_path, monkeypatch, name, words):
    data = tmp_path / "data"
    shutil.copytree(whole, data)
    with monkeypatch.context() as patch:
        if name == "manifest.json":
            at_step(patch, 11, (data / name).unlink)
        else:
            at_step(patch, 11, lambda: flip_every_id(data / name, 1))
        with pytest.raises(CorruptFileError, match=words) as caught:
            train(tiny(), data, tmp_path / "model")
    assert classify(caught.value) == CORRUPT_FILE
    saved = max(int(path.name[5:]) for path in (tmp_path / "model/checkpoints").glob("step-*"))
    assert saved <= 11, "what was saved is from before the damage"
    shutil.copytree(whole, data, dirs_exist_ok=True)
    outcome = train(tiny(), data, tmp_path / "model")
    assert_same(outcome, undisturbed[0], tmp_path / "model", undisturbed[1])


def test_much_data_is_checked_at_the_start_alone(whole, tmp_path, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(whole, data)
    monkeypatch.setattr(data_folder, "CHECKED_BYTES", 1000)
    with monkeypatch.context() as patch:
        at_step(patch, 11, lambda: flip_every_id(data / "train.bin", 1))
        assert train(tiny(max_iters=13), data, tmp_path / "model").status == "finished"
    with pytest.raises(CorruptFileError, match=r"train\.bin changed"):
        train(tiny(max_iters=14), data, tmp_path / "model")
