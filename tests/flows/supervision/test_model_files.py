"""What the orchestrator reads in a model's folder, whatever state a crash has left it in."""

import json
from pathlib import Path

import pytest

from flows.supervision.model_files import EventReader, ModelFiles
from nanogpt import durable
from nanogpt.records import to_json
from nanogpt.results.training import Heartbeat, TrainerEvent, TrainingFailure
from tests.flows.parts import outcome
from tests.not_a_file import each_kind

pytestmark = pytest.mark.fast


@pytest.fixture
def files(tmp_path) -> ModelFiles:
    return ModelFiles(tmp_path)


def checkpoint(files: ModelFiles, step: int, **facts) -> Path:
    folder = files.folder / f"checkpoints/step-{step:08}"
    durable.write_json(folder / "manifest.json", {"facts": facts})
    return folder


def test_a_folder_without_anything_has_nothing_to_say(files):
    assert (files.heartbeat(), files.outcome(), files.saved_step(), files.lost()) == (None, None, 0, (0, 0.0))
    assert files.saved_seconds() == files.trained_seconds() == files.last_logged_step() == 0
    assert files.settled_micro_batch(12) == 12 and not files.has_best() and files.checkpoints() == frozenset()
    ModelFiles(files.folder / "nowhere").append_event(TrainerEvent("remedy", 0, "killed"))


def test_an_ending_is_what_the_trainer_wrote(files):
    for written in (outcome(), TrainingFailure("disk_full", "no space", needed=10**9)):
        durable.write_json(files.folder / "outcome.json", to_json(written))
        assert files.outcome() == written
    files.forget_outcome()
    assert files.outcome() is None


@pytest.mark.parametrize("torn", ['{"step": 3', "[]", "null", '{"step": "many"}', ""])
def test_what_is_torn_is_not_there_yet(files, torn):
    for name in ("heartbeat", "outcome.json", "metrics.jsonl"):
        (files.folder / name).write_text(torn)
    assert files.heartbeat() is None and files.outcome() is None and files.last_logged_step() == 0


def test_what_an_interruption_costs_is_known_by_the_latest_pace(files):
    checkpoint(files, 60)
    durable.write_json(files.folder / "heartbeat", to_json(Heartbeat(80, 100, "training", seconds=40.0)))
    assert files.lost() == (20, 10.0)
    assert (files.saved_seconds(), files.trained_seconds()) == (30.0, 40.0)


@pytest.mark.parametrize("facts, settled", [
    ({"micro_batch": 3, "batch_size": 12}, 3), ({"micro_batch": 3, "batch_size": 8}, 12),
    ({"micro_batch": 24, "batch_size": 12}, 12), ({}, 6),
])  # fmt: skip
def test_the_micro_batch_of_the_newest_checkpoint_that_says_one_holds(files, facts, settled):
    checkpoint(files, 10, micro_batch=6, batch_size=12)
    checkpoint(files, 20, **facts)
    assert files.settled_micro_batch(12) == settled


@pytest.mark.parametrize("facts, by_torch", [
    ({"device": "cpu"}, True), ({"device": "cpu", "kernels": "torch"}, True),
    ({"device": "cpu", "kernels": "c-1"}, False),
    ({"device": "mps"}, False), ({}, False),
])  # fmt: skip
def test_whether_a_training_goes_on_by_torch_is_known_from_its_newest_checkpoint(files, facts, by_torch):
    assert not files.goes_on_by_torch()
    checkpoint(files, 10, device="cpu", kernels="c-1" if by_torch else "torch")
    checkpoint(files, 20, **facts)
    assert files.goes_on_by_torch() == by_torch


def test_a_checkpoint_that_was_replaced_is_another_one(files):
    kept, replaced = checkpoint(files, 10), checkpoint(files, 20)
    trusted = files.checkpoints()
    durable.write_json(replaced / "manifest.json", {"facts": {}})
    files.set_aside_all_but(trusted)
    assert kept.is_dir() and not replaced.exists() and replaced.with_name(f"{replaced.name}.bad").is_dir()


def test_each_event_is_read_once_and_only_when_it_is_whole(files):
    files.append_event(TrainerEvent("started", 0, "before"))
    events, path = EventReader(files), files.folder / "events.jsonl"
    assert list(events.new()) == []
    event = TrainerEvent("out_of_memory", 7, "refused", time=1.0, micro_batch=6)
    files.append_event(event)
    with open(path, "a") as file:
        file.write(f'not JSON\n{"[" * 100_000}\n{{"event": "skipped", "step": 8, ')
    assert list(events.new()) == [event]
    with open(path, "a") as file:
        file.write('"message": "loss 9"}\n')
    assert [event.message for event in events.new()] == ["loss 9"]
    assert json.loads(path.read_text().splitlines()[0]) == {"step": 0, "event": "started", "message": "before"}


def test_an_event_may_name_a_file_whose_name_is_not_text(files):
    events, event = EventReader(files), TrainerEvent("remedy", 7, "no room for /mod\udcffel")
    files.append_event(event)
    assert list(events.new()) == [event]


@each_kind
def test_what_takes_the_place_of_the_events_has_none(files, put):
    events, path = EventReader(files), files.folder / "events.jsonl"
    put(path)
    assert list(events.new()) == []
    event = TrainerEvent("skipped", 8, "loss 9")
    files.append_event(event)
    assert list(events.new()) == [event]
