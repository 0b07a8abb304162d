"""Room for the next checkpoint is held while a model trains, and given up for a checkpoint when there is no other."""

import errno
import os
import shutil
from collections import namedtuple

import pytest

from nanogpt import faults
from nanogpt.training.trainer import train
from nanogpt.weights import reserve
from nanogpt.weights.reserve import NoRoomError, Reserve
from tests.nanogpt.training_case import losses, make_data, tiny
from tests.not_a_file import each_kind

Usage = namedtuple("Usage", "total used free")
NO_FALLOCATE = pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="macOS")


def test_what_is_held_are_blocks_and_not_a_size(tmp_path):
    held = Reserve(tmp_path / ".room")
    held.take(1 << 20)
    assert held.path.stat().st_blocks * 512 >= 1.5 * (1 << 20)
    held.take(1_100_000)  # a little more fits into what is held
    assert held.path.stat().st_size == 1.5 * (1 << 20)
    held.take(1 << 18)
    assert held.path.stat().st_size == 1.5 * (1 << 18)
    assert held.give_up() and held.is_given_up and not held.give_up()
    assert list(tmp_path.iterdir()) == []


@NO_FALLOCATE
@pytest.mark.parametrize("number, raised", [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EFBIG, False),
                                            (errno.EOPNOTSUPP, False)])  # fmt: skip
def test_a_file_system_without_room_is_reported_and_one_that_cannot_hold_it_is_not(
    tmp_path, monkeypatch, number, raised
):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    if raised:
        with pytest.raises(NoRoomError, match=r"a checkpoint needs 1\.5 MB, free are") as error:
            Reserve(tmp_path / ".room").take(1_000_000)
        assert error.value.needed == 1_500_000 and faults.classify(error.value) == faults.DISK_FULL
    else:
        Reserve(tmp_path / ".room").take(1_000_000)
    assert list(tmp_path.iterdir()) == []


@NO_FALLOCATE
def test_the_last_checkpoint_fits_on_a_disk_that_others_fill(tmp_path, monkeypatch):
    """From the second save on, there is nothing but what is held; once that is used, nothing can be held anew. The
    training leaves after saving, with nothing lost, and with room again it ends as if nothing had been."""
    config, data, model = tiny(), make_data(tmp_path), tmp_path / "model"
    whole = train(config, data, tmp_path / "undisturbed")
    real, held = os.posix_fallocate, []

    def allocate(descriptor, offset, size):
        if held:
            raise OSError(errno.ENOSPC, "No space left on device")
        held.append(size)
        real(descriptor, offset, size)

    def usage(folder):
        return Usage(0, 0, 0 if (model / ".room").exists() else 2 * held[0] if held else 1 << 40)

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", allocate)
        patch.setattr(shutil, "disk_usage", usage)
        with pytest.raises(NoRoomError):
            train(config, data, model)
    kept = sorted(path.name for path in (model / "checkpoints").glob("step-*"))
    assert kept[-1] == "step-00000008" and losses(model)[-1][1] == 8 and not (model / ".room").exists()
    assert train(config, data, model).sha256 == whole.sha256
    assert losses(model) == losses(tmp_path / "undisturbed")
    assert not (model / ".room").exists()


def test_what_is_needed_allows_for_others(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(NoRoomError):
        reserve.require(tmp_path, int(free / reserve.SPACE_FACTOR * 1.5))


@each_kind
def test_what_stands_in_its_place_makes_way(tmp_path, put):
    held = Reserve(tmp_path / ".room")
    put(held.path)
    held.take(1 << 20)
    assert held.path.stat().st_size == 1.5 * (1 << 20) and held.give_up()
    put(held.path)
    held.give_up()
    assert not os.path.lexists(held.path)
