"""When the disk is full: what a run spares and what never, the wait for more, and folders that cannot be written."""

import errno
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from flows.machine import disk
from flows.machine.disk import DiskSpace, Unwritable
from nanogpt import durable
from nanogpt.weights import checkpoint
from nanogpt.weights.reserve import NoRoomError
from tests.flows.parts import Parts

STEP = "training.micro"
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def parts(tmp_path) -> Parts:
    return Parts(tmp_path)


def save(folder: Path, step: int) -> Path:
    path = checkpoint.step_folder(folder, step)
    checkpoint.save(path, nn.Linear(3, 2), step=step, facts={}, state={"cursor": step})
    return path


@pytest.fixture
def model(parts) -> Path:
    """A model of three checkpoints, of which the newest has a flipped bit, and all that may lie next to them."""
    model = parts.paths.checkpoints / "micro"
    for step in (10, 20, 30):
        save(model / "checkpoints", step)
    state = model / "checkpoints/step-00000030/state.pt"
    state.write_bytes(state.read_bytes()[:-1] + b"x")
    for kept in ("checkpoints/before-cooldown", "best", "final"):
        checkpoint.save(model / kept, nn.Linear(3, 2), step=20, facts={})
    for file in (".room", "checkpoints/.step-00000040.tmp/state.pt", "checkpoints/step-00000005.bad/state.pt",
                 "metrics.jsonl", "tensorboard/events.out"):  # fmt: skip
        durable.write_text(model / file, "x")
    durable.write_text(parts.paths.checkpoints / "micro.previous/final/model.safetensors", "x")
    return model


SPARED = [
    "default/micro/.room", "default/micro/checkpoints/.step-00000040.tmp",
    "default/micro/checkpoints/step-00000005.bad",
    "default/micro.previous", "default/micro/checkpoints/step-00000010",
]  # fmt: skip


@pytest.mark.parametrize("enough", range(len(SPARED) + 1))
def test_what_is_missed_least_goes_first_and_no_more_than_is_needed(parts, model, monkeypatch, enough):
    others = [parts.paths.checkpoints.with_name(name) for name in ("neighbour", "default.20261121-070000")]
    others = [save(folder / "micro/checkpoints", 10) for folder in others]
    spared = [parts.paths.checkpoints.parent / name for name in SPARED]
    monkeypatch.setattr(disk, "has_room", lambda folder, needed: not any(map(Path.exists, spared[:enough])))
    before = set(parts.paths.checkpoints.parent.rglob("*"))
    parts.disk.make_room(STEP, "no space left", model, 1000)
    gone = {path for path in before if not path.exists()}
    assert {path for path in gone if path.parent not in gone} == set(spared[:enough])
    assert all(map(disk.is_whole, [*others, model / "best", model / "checkpoints/before-cooldown"]))
    [row] = parts.journal.remedies
    assert (row.symptom, row.step, row.evidence) == ("disk_full", STEP, "no space left")
    assert ("removed" in row.remedy) == bool(enough)


def test_an_unfinished_file_goes_only_when_its_process_has_ended(parts):
    dead, alive = parts.paths.data / ".a.bin.4194305.tmp", parts.paths.data / ".b.bin.1.tmp"
    for path in (dead, alive, parts.paths.data / ".persons.tmp"):
        durable.write_text(path, "x")
    assert list(parts.disk.spare()) == [dead]


def test_a_disk_that_stays_full_is_waited_for_and_the_wait_does_not_count(parts, model, monkeypatch):
    looks, real = [], time.monotonic
    clocks = SimpleNamespace(sleep=looks.append, monotonic=lambda: real() + 600 * len(looks))
    monkeypatch.setattr(disk, "time", clocks)
    monkeypatch.setattr("flows.context.budget_clock.time", clocks)
    monkeypatch.setattr(disk, "has_room", lambda folder, needed: len(looks) == 3)
    spent = parts.clock.spent
    parts.disk.make_room(STEP, "no space left", model, 2_500_000)
    assert parts.clock.spent - spent < 60
    [row] = parts.journal.remedies
    assert row.cost_seconds >= 1800 and "waited 30 min" in row.remedy
    assert re.search(f"the run waits until 2.5 MB can be written to {model}; [0-9,.]+ MB are free", parts.log)
    assert "Ctrl-C stops it" in parts.log and parts.pulses == 3


def test_a_person_can_stop_a_run_that_waits_for_room(parts, model, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(disk, "time", SimpleNamespace(sleep=interrupted, monotonic=time.monotonic))
    monkeypatch.setattr(disk, "has_room", lambda folder, needed: False)
    with pytest.raises(KeyboardInterrupt):
        parts.disk.make_room(STEP, "no space left", model, 1000)
    assert checkpoint.load_newest(model / "checkpoints", lambda path, error: None).step == 20


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="macOS")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_room_is_found_by_reserving_it(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    assert disk.has_room(tmp_path, 1000) and not disk.has_room(tmp_path, 1 << 60)
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert not disk.has_room(tmp_path, 1000)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Unwritable, match="is gone"):
        disk.has_room(tmp_path / "nowhere", 1000)


def work_that_ends(*endings):
    """Work that raises each exception in turn, and returns what is none; a library's is caused by a full disk."""
    left = iter(endings)

    def work():
        ending = next(left)
        if isinstance(ending, RuntimeError):
            raise ending from FULL
        if isinstance(ending, OSError):
            raise ending
        return ending

    return work


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, str, Path, int]]:
    """What room is made for: step, evidence, folder, bytes. There is always some."""
    asked = []
    monkeypatch.setattr(DiskSpace, "make_room", lambda space, *named: asked.append(named))
    return asked


def test_work_that_finds_no_room_is_done_again_and_asks_for_twice_as_much_each_time(parts, asked):
    assert parts.disk.with_room(STEP, work_that_ends(FULL, RuntimeError("a library's"), "done")) == "done"
    assert [evidence for _, evidence, _, _ in asked] == ["[Errno 28] No space left on device"] * 2
    assert asked[1][3] == 2 * asked[0][3] >= 2 << 20


def test_what_the_error_names_is_what_is_waited_for(parts, model, asked):
    assert parts.disk.with_room(STEP, work_that_ends(NoRoomError(model, 1 << 40, free=0), "done")) == "done"
    [(step, evidence, folder, needed)] = asked
    assert (step, folder, needed) == (STEP, model, 1 << 40)
    assert "a checkpoint needs 1099511.6 MB, free are 0.0 MB" in evidence


def test_a_limit_on_the_size_of_files_is_the_workers_too(parts, asked):
    closed = []
    space = DiskSpace(parts.paths, parts.journal, parts.clock, parts.pulse, lambda: closed.append(True))
    assert space.with_room(STEP, work_that_ends(OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "done")) == "done"
    assert closed == [True]


def test_other_errors_and_a_disk_that_is_never_enough_are_raised(parts, asked):
    def fail():
        raise ValueError

    with pytest.raises(ValueError):
        parts.disk.with_room(STEP, fail)
    with pytest.raises(OSError, match="No space"):
        parts.disk.with_room(STEP, work_that_ends(*[FULL] * 100))
    assert len(asked) == disk.MOST_TIMES


def test_a_run_whose_folders_are_there_continues_and_one_whose_log_is_gone_does_not(parts, model):
    parts.disk.require_folders()
    parts.paths.logs.rename(parts.paths.logs.with_name("elsewhere"))
    with pytest.raises(Unwritable, match="the same command continues"):
        parts.disk.require_folders()
