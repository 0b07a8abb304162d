"""Rows of metrics: each whole or absent, whatever moment a crash chose; the heartbeat is always a whole file."""

import json
import math
from pathlib import Path

import pytest

from nanogpt.training.record.metrics import HeartbeatFile, JsonLines, read_heartbeat, read_rows
from tests.not_a_file import each_kind

pytestmark = pytest.mark.fast


def test_rows_leave_out_what_is_not_finished_or_not_a_row(tmp_path):
    file = tmp_path / "metrics.jsonl"
    flipped = b'{"kind":"train","stdp":3}\n{"kind":"train","step":"4"}\n'
    file.write_bytes(
        b'{"kind":"train","step":1}\n\xff\xfe\n[1]\n' + flipped + b'{"kind":"eval","step":2}\n{"kind":"tra'
    )
    assert list(read_rows(file)) == [{"kind": "train", "step": 1}, {"kind": "eval", "step": 2}]
    assert list(read_rows(tmp_path / "absent")) == []


def test_a_row_that_was_cut_does_not_swallow_the_next_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st')
    rows = JsonLines(path)
    rows.append({"step": 2})
    assert list(read_rows(path)) == [{"step": 1}, {"step": 2}]
    rows.close()


def test_a_row_can_be_read_at_once_and_what_is_not_finite_is_null(tmp_path):
    rows = JsonLines(tmp_path / "metrics.jsonl")
    rows.append({"loss": math.nan, "of": {"worst": math.inf}, "step": 1})
    assert list(read_rows(rows.path)) == [{"loss": None, "of": {"worst": None}, "step": 1}]
    rows.close()


def test_rows_that_are_not_wanted_go_and_later_ones_follow_the_rest(tmp_path):
    rows = JsonLines(tmp_path / "metrics.jsonl")
    for step in range(5):
        rows.append({"step": step})
    rows.keep(lambda row: row["step"] < 2)
    rows.append({"step": 9})
    rows.close()
    assert [row["step"] for row in read_rows(rows.path)] == [0, 1, 9]


def test_a_row_may_name_a_file_whose_name_is_not_text(tmp_path):
    rows = JsonLines(tmp_path / "events.jsonl")
    rows.append({"step": 1, "message": "/mod\udcffel is gone"})
    rows.close()
    assert list(read_rows(rows.path)) == [{"step": 1, "message": "/mod\udcffel is gone"}]


DAMAGED = [
    b"",
    b'{"step": 0, "loss": 3',
    b'{"stdp": 0, "loss": 3.1}\n',
    b'{"step": 0, "loss": 3.1}\n{"step": 1, "loss": 7.2}\n',
]


@pytest.mark.parametrize("damage", DAMAGED)
def test_rows_that_are_known_take_the_place_of_damaged_ones(tmp_path, damage):
    path, known = tmp_path / "metrics.jsonl", [{"step": 0, "loss": 3.1}, {"step": 1, "loss": 2.9}]
    path.write_bytes(damage)
    rows = JsonLines(path)
    assert rows.keep(lambda row: row["step"] < 2, [*known, {"step": 2, "loss": 2.8}])
    assert rows.rows() == known
    assert not rows.keep(lambda row: row["step"] < 2, known)
    rows.close()


def overwritten(path):
    path.write_bytes(b'{"step": 0, "loss": 9.9}\n')


def replaced_by_a_folder(path):
    path.unlink()
    path.mkdir()


OUTSIDERS = [overwritten, replaced_by_a_folder, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-5])]


@pytest.mark.parametrize("change", OUTSIDERS)
def test_what_was_written_comes_again_where_the_file_was_changed_meanwhile(tmp_path, change):
    path = tmp_path / "metrics.jsonl"
    rows = JsonLines(path)
    rows.append({"step": 0, "loss": 3.1})
    change(path)
    rows.append({"step": 1, "loss": math.nan})
    written = [{"step": 0, "loss": 3.1}, {"step": 1, "loss": None}]
    assert rows.rows() == written
    assert rows.mend() and not rows.mend()
    rows.append({"step": 2})
    assert list(read_rows(path)) == rows.rows() == [*written, {"step": 2}]
    assert not rows.mend()
    rows.close()


def test_a_file_that_cannot_be_opened_is_set_aside(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.symlink_to(path.name)  # to itself: even root cannot open it
    rows = JsonLines(path)
    rows.append({"step": 1})
    assert rows.was_set_aside and list(read_rows(path)) == [{"step": 1}]
    assert (tmp_path / "metrics.jsonl.bad").is_symlink()
    rows.close()


def test_the_heartbeat_is_rewritten_when_a_second_passed_or_the_activity_changed(tmp_path, monkeypatch):
    clock = iter([0.0, 0.5, 0.6, 1.7])
    monkeypatch.setattr("nanogpt.training.record.metrics.time.monotonic", lambda: next(clock))
    heart = HeartbeatFile(tmp_path / "heartbeat", steps=10)
    seen = []
    for step, activity in enumerate(["training", "training", "saving", "saving"]):
        heart.beat(step, activity, loss=math.nan)
        seen.append(json.loads((tmp_path / "heartbeat").read_text()))
    assert [(row["step"], row["activity"]) for row in seen] == [
        (0, "training"), (0, "training"), (2, "saving"), (3, "saving"),
    ]  # fmt: skip
    assert seen[0]["expected_steps"] == 10 and seen[0]["loss"] is None


@each_kind
def test_what_is_no_file_makes_way_for_rows_and_heartbeat(tmp_path, put):
    for name in ("metrics.jsonl", "heartbeat", ".heartbeat.tmp"):
        put(tmp_path / name)
    (tmp_path / "metrics.jsonl.bad").mkdir()  # set aside before
    rows, heartbeat = JsonLines(tmp_path / "metrics.jsonl"), HeartbeatFile(tmp_path / "heartbeat", 9)
    rows.append({"step": 1})
    heartbeat.beat(1, "training")
    assert rows.was_set_aside and list(read_rows(rows.path)) == [{"step": 1}]
    (tmp_path / "heartbeat").unlink()
    put(tmp_path / "heartbeat")
    heartbeat.beat(2, "saving")
    assert read_heartbeat(tmp_path).step == 2
    rows.close()
