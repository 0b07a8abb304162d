"""When the disk is full: what a run spares and what never, the wait for more, and folders that cannot be written."""

import errno
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from flows.context.options import parse
from flows.display.plain import PlainDisplay
from flows.machine import disk
from flows.machine.disk import Unwritable
from flows.phases import environment
from flows.runner.run import Run
from nanogpt import durable
from nanogpt.weights import checkpoint

STEP = "training.micro"
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def run(tmp_path) -> Run:
    run = Run(parse(["--workspace", str(tmp_path), "--set", "milestones=false"]))
    run.display = PlainDisplay()
    run.begin()
    return run


def save(folder: Path, step: int) -> Path:
    path = checkpoint.step_folder(folder, step)
    checkpoint.save(path, nn.Linear(3, 2), step=step, facts={}, state={"cursor": step})
    return path


@pytest.fixture
def model(run) -> Path:
    """A model of three checkpoints, of which the newest has a flipped bit, and all that may lie beside them."""
    model = run.paths.checkpoints / "micro"
    for step in (10, 20, 30):
        save(model / "checkpoints", step)
    state = model / "checkpoints/step-00000030/state.pt"
    state.write_bytes(state.read_bytes()[:-1] + b"x")
    for kept in ("checkpoints/before-cooldown", "best", "final"):
        checkpoint.save(model / kept, nn.Linear(3, 2), step=20, facts={})
    for file in (".room", "checkpoints/.step-00000040.tmp/state.pt", "checkpoints/step-00000005.bad/state.pt",
                 "metrics.jsonl", "tensorboard/events.out"):  # fmt: skip
        durable.write_text(model / file, "x")
    durable.write_text(run.paths.checkpoints / "micro.previous/final/model.safetensors", "x")
    return model


SPARED = [
    "default/micro/.room", "default/micro/checkpoints/.step-00000040.tmp",
    "default/micro/checkpoints/step-00000005.bad",
    "default/micro.previous", "default/micro/checkpoints/step-00000010",
]  # fmt: skip


@pytest.mark.parametrize("enough", range(len(SPARED) + 1))
def test_what_is_missed_least_goes_first_and_no_more_than_is_needed(run, model, monkeypatch, enough):
    beside = [run.paths.checkpoints.with_name(name) for name in ("neighbour", "default.20261121-070000")]
    others = [save(folder / "micro/checkpoints", 10) for folder in beside]
    spared = [run.paths.checkpoints.parent / name for name in SPARED]
    monkeypatch.setattr(disk, "has_room", lambda folder, needed: not any(map(Path.exists, spared[:enough])))
    before = set(run.paths.checkpoints.parent.rglob("*"))
    disk.make_room(run, STEP, "no space left", model, 1000)
    gone = {path for path in before if not path.exists()}
    assert {path for path in gone if path.parent not in gone} == set(spared[:enough])
    assert all(map(disk.is_whole, [*others, model / "best", model / "checkpoints/before-cooldown"]))
    [row] = run.remedies
    assert (row["symptom"], row["step"], row["evidence"]) == ("disk_full", STEP, "no space left")
    assert ("removed" in row["remedy"]) == bool(enough)


def test_an_unfinished_file_goes_only_when_its_process_has_ended(run):
    dead, alive = run.paths.data / ".a.bin.4194305.tmp", run.paths.data / ".b.bin.1.tmp"
    for path in (dead, alive, run.paths.data / ".persons.tmp"):
        durable.write_text(path, "x")
    assert list(disk.spare(run)) == [dead]


def test_a_disk_that_stays_full_is_waited_for_and_the_wait_is_not_the_budgets(run, model, monkeypatch):
    looks, real = [], time.monotonic
    clocks = SimpleNamespace(sleep=looks.append, monotonic=lambda: real() + 600 * len(looks))
    monkeypatch.setattr(disk, "time", clocks)
    monkeypatch.setattr("flows.context.budget_clock.time", clocks)
    monkeypatch.setattr(disk, "has_room", lambda folder, needed: len(looks) == 3)
    spent = run.clock.spent
    disk.make_room(run, STEP, "no space left", model, 2_500_000)
    assert run.clock.spent - spent < 60
    assert run.remedies[0]["cost_seconds"] >= 1800 and "waited 30 min" in run.remedies[0]["remedy"]
    log = run.log.path.read_text()
    assert f"the run waits until 2.5 MB can be written to {model}; free are" in log and "Ctrl-C stops it" in log


def test_a_person_can_stop_a_run_that_waits_for_room(run, model, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(disk, "time", SimpleNamespace(sleep=interrupted, monotonic=time.monotonic))
    monkeypatch.setattr(disk, "has_room", lambda folder, needed: False)
    with pytest.raises(KeyboardInterrupt):
        disk.make_room(run, STEP, "no space left", model, 1000)
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


def test_work_that_finds_no_room_is_done_again_and_asks_for_twice_as_much_each_time(run, monkeypatch):
    asked, endings = [], iter([FULL, RuntimeError("a library's"), "done"])

    def work():
        ending = next(endings)
        if isinstance(ending, RuntimeError):
            raise ending from FULL
        if isinstance(ending, OSError):
            raise ending
        return ending

    monkeypatch.setattr(disk, "make_room", lambda run, step, evidence, folder, needed: asked.append((evidence, needed)))
    assert disk.with_room(run, STEP, work) == "done"
    assert [evidence for evidence, _ in asked] == ["[Errno 28] No space left on device"] * 2
    assert asked[1][1] == 2 * asked[0][1] >= 2 << 20


def test_other_errors_and_a_disk_that_is_never_enough_are_raised(run, monkeypatch):
    def fail(error):
        raise error

    monkeypatch.setattr(disk, "make_room", lambda *_: None)
    with pytest.raises(ValueError):
        disk.with_room(run, STEP, lambda: fail(ValueError()))
    with pytest.raises(OSError, match="No space"):
        disk.with_room(run, STEP, lambda: fail(FULL))


def test_a_run_whose_folders_are_there_goes_on_and_one_whose_log_is_gone_does_not(run, model):
    disk.require_folders(run)
    run.paths.logs.rename(run.paths.logs.with_name("elsewhere"))
    with pytest.raises(Unwritable, match="the same command goes on"):
        disk.require_folders(run)


@pytest.mark.parametrize("free, told", [(disk.LEAST - 1, "No space left"), (disk.LEAST, "disk: found 0.0 GiB, needed")])
def test_at_the_start_a_full_disk_is_waited_for_and_a_small_one_refused(run, monkeypatch, free, told):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises((OSError, RuntimeError), match=told) as refused:
        environment.check_system(run)
    assert (getattr(refused.value, "errno", None) == errno.ENOSPC) == (free < disk.LEAST)
