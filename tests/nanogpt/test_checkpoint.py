"""Checkpoints: every byte counts, what is half written is never loaded, a bad one makes room for the one before."""

import errno
import os
import random
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nanogpt import durable
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.weights import checkpoint

pytestmark = pytest.mark.fast


def model(value: float = 1.0) -> nn.Module:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.fill_(value)
        layer.bias.fill_(-value)
    return layer


def save(folder: Path, step: int, value: float = 1.0) -> Path:
    path = checkpoint.step_folder(folder, step)
    checkpoint.save(path, model(value), step=step, facts={"loss": 2.5}, state={"cursor": step, "m": torch.ones(4)})
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoints"), 5)


def test_comes_back_as_it_was(saved):
    found = checkpoint.load(saved)
    assert (found.step, found.facts, found.state["cursor"]) == (5, {"loss": 2.5}, 5)
    other = model(0.0)
    checkpoint.put_weights(other, found.weights, "here")
    assert torch.equal(other.weight, model().weight) and torch.equal(other.bias, model().bias)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_anywhere_is_noticed(saved, data):
    path = data.draw(st.sampled_from(sorted(saved.iterdir())))
    content = path.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    flipped = bytearray(content)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(flipped)
    try:
        with pytest.raises(CorruptFileError):
            checkpoint.load(saved)
    finally:
        path.write_bytes(content)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_file_cut_anywhere_is_noticed(saved, data):
    path = data.draw(st.sampled_from(sorted(saved.iterdir())))
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    try:
        with pytest.raises(CorruptFileError):
            checkpoint.load(saved)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("content", [b"", b"\xff", b"null", b"[]", b"{}", b"[" * 100_000])
def test_what_is_no_manifest_is_noticed(tmp_path, content):
    (save(tmp_path, 1) / "manifest.json").write_bytes(content)
    with pytest.raises(CorruptFileError, match="manifest"):
        checkpoint.load(tmp_path / "step-00000001")


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "manifest.json"])
def test_a_missing_file_is_noticed(tmp_path, name):
    path = save(tmp_path, 1)
    (path / name).unlink()
    with pytest.raises(CorruptFileError):
        checkpoint.load(path)


def test_a_bad_one_is_set_aside_and_the_one_before_is_taken(tmp_path):
    save(tmp_path, 1)
    bad = save(tmp_path, 2)
    (bad / "state.pt").write_bytes(b"")
    messages = []
    assert checkpoint.load_newest(tmp_path, lambda path, error: messages.append(path.name)).step == 1
    assert messages == ["step-00000002"] and (tmp_path / "step-00000002.bad").is_dir()
    assert [path.name for path in checkpoint.steps_in(tmp_path)] == ["step-00000001"]


def test_one_on_a_bad_block_of_the_disk_is_set_aside(tmp_path, monkeypatch):
    save(tmp_path, 1)
    bad, read = save(tmp_path, 2), durable.sha256_file

    def on_a_disk_with_a_bad_block(path):
        if path == bad / "model.safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    monkeypatch.setattr(durable, "sha256_file", on_a_disk_with_a_bad_block)
    assert checkpoint.load_newest(tmp_path, lambda path, error: None).step == 1
    assert (tmp_path / "step-00000002.bad").is_dir()


def test_no_good_one_is_none(tmp_path):
    assert checkpoint.load_newest(tmp_path / "nothing", print) is None


@pytest.mark.parametrize("cut", ["fsync_file", "fsync_folder"])
def test_a_write_that_is_cut_leaves_the_one_before(tmp_path, monkeypatch, cut):
    save(tmp_path, 1, value=1.0)

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.durable, cut, fail)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert checkpoint.load_newest(tmp_path, pytest.fail).step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("renames_done", [0, 1, 2])
def test_replacing_a_checkpoint_is_never_without_a_whole_one(tmp_path, monkeypatch, renames_done):
    path = save(tmp_path, 1, value=1.0)
    real, done = os.replace, []

    def replace(source, target):
        if len(done) == renames_done:
            raise KeyboardInterrupt
        done.append(target)
        return real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    try:
        save(tmp_path, 1, value=2.0)
    except KeyboardInterrupt:
        assert renames_done < 2
    monkeypatch.undo()
    found = checkpoint.load_or_set_aside(path, pytest.fail)
    assert found.weights["weight"][0, 0] == (2.0 if renames_done == 2 else 1.0)


def test_space_is_reserved_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(100, 90, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError) as error:
        save(tmp_path, 1)
    assert error.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []


def test_pruning_keeps_the_regular_ones_and_the_newest(tmp_path):
    for step in (0, 10, 20, 25, 30, 33):
        save(tmp_path, step)
    checkpoint.prune(tmp_path, keep=2, interval=10)
    assert [checkpoint.step_of(path) for path in checkpoint.steps_in(tmp_path)] == [20, 30, 33]


def test_pruning_keeps_others_until_there_are_enough_regular_ones(tmp_path):
    for step in (11, 14, 20):
        save(tmp_path, step)
    checkpoint.prune(tmp_path, keep=2, interval=10)
    assert [checkpoint.step_of(path) for path in checkpoint.steps_in(tmp_path)] == [14, 20]


def test_pruning_takes_what_a_sudden_end_left_half_written(tmp_path):
    save(tmp_path, 10)
    (tmp_path / ".step-00000007.tmp").mkdir()
    checkpoint.prune(tmp_path, keep=2, interval=10)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_a_persons_copy_of_a_checkpoint_is_left_alone(tmp_path):
    shutil.copytree(save(tmp_path, 10), tmp_path / "step-00000020 copy")
    assert checkpoint.load_newest(tmp_path, pytest.fail).step == 10
    checkpoint.prune(tmp_path, keep=2, interval=10)
    checkpoint.remove_after(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000020 copy"]


def test_the_newest_at_most(tmp_path):
    for step in (0, 10, 20, 25):
        save(tmp_path, step)
    found = [checkpoint.load_newest(tmp_path, pytest.fail, 10, at_most) for at_most in (None, 24, 19, 9)]
    assert [checkpoint.step for checkpoint in found] == [20, 20, 10, 0]
    assert checkpoint.load_newest(tmp_path, pytest.fail).step == 25


def test_another_architecture_names_the_field():
    with pytest.raises(UserError, match=r"bias is \(3,\) there, \(2,\) here, weight is \(3, 2\)"):
        checkpoint.put_weights(model(), checkpoint.named_tensors(nn.Linear(2, 3)), "there")


def test_every_generator_goes_on_where_it_was(tmp_path):
    folder = tmp_path / "c"
    checkpoint.save(folder, model(), step=0, facts={}, state=checkpoint.random_state("cpu"))
    drawn = [random.random(), np.random.random(), torch.rand(3)]
    checkpoint.restore_random_state(checkpoint.load(folder).state, "cpu")
    assert drawn[0] == random.random() and drawn[1] == np.random.random() and torch.equal(drawn[2], torch.rand(3))
