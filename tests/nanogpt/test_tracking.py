"""What TensorBoard and Weights & Biases read back is what the metrics say, through any interruption."""

import importlib.util
import json
import math
import struct
import sys
import time
import types
from pathlib import Path
from typing import ClassVar

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanogpt.config import Config
from nanogpt.faults import UserError
from nanogpt.training.record import tracking
from nanogpt.training.record.metrics import JsonLines, read_rows
from nanogpt.training.record.tracking import Tracker, curves
from nanogpt.training.trainer import train
from tests.nanogpt.training_case import events, losses, make_data, tiny, train_with_stops
from tests.not_a_file import each_kind

REAL = tiny(sample_interval=10)


def train_row(step: int) -> dict:
    return {
        "kind": "train", "step": step, "loss": 4 / step, "learning_rate": 0.01, "grad_norm": 1 / step,
        "tokens": 64 * step, "seconds": 0.5 * step, "tokens_per_second": 128.0, "memory_bytes": 3 * 2**29,
    }  # fmt: skip


def eval_row(step: int, loss: float) -> dict:
    return {"kind": "eval", "step": step, "val_loss": loss, "bits_per_byte": 2.0, "seconds": 0.5 * step, "best": True}


class Training:
    """Writes the files of a model folder as the trainer does: the row first, then what shows it."""

    def __init__(self, folder: Path, config: Config | None = None):
        self.folder, self.events = folder, []
        self.metrics, self.samples = JsonLines(folder / "metrics.jsonl"), JsonLines(folder / "samples.jsonl")
        self.config = config or Config()

    def begin(self) -> None:
        self.tracker = Tracker(self.folder, self.config, lambda *event: self.events.append(event))

    def steps(self, first: int, last: int) -> None:
        """Rows of the steps first to last; every tenth is evaluated and followed by a sample."""
        for step in range(first, last + 1):
            self.metrics.append(train_row(step))
            self.tracker.row(train_row(step))
            if step % 10 == 0:
                self.metrics.append(eval_row(step, 3 / step))
                self.tracker.row(eval_row(step, 3 / step))
                for temperature in (0.6, 1.0):
                    sample = {"step": step, "temperature": temperature, "text": f"at {step}"}
                    self.samples.append(sample)
                    self.tracker.sample(sample)

    def cut(self, step: int) -> None:
        """What ModelFolder.go_back_to() does to the files."""
        self.metrics.keep(lambda row: row["step"] <= step if row["kind"] == "train" else row["step"] < step)
        self.samples.keep(lambda row: row["step"] < step)


def read_back(folder: Path) -> dict[str, list[tuple]]:
    """{tag: [(step, value), ...]} of curves and texts, as TensorBoard shows them."""
    seen = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    seen.Reload()
    tags = seen.Tags()
    shown = {tag: [(point.step, point.value) for point in seen.Scalars(tag)] for tag in tags["scalars"]}
    for tag in tags["tensors"]:
        shown[tag] = [(point.step, point.tensor_proto.string_val[0].decode()) for point in seen.Tensors(tag)]
    return shown


def float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


@pytest.fixture
def whole(tmp_path) -> dict:
    training = Training(tmp_path / "whole")
    training.begin()
    training.steps(1, 40)
    training.tracker.close()
    assert training.events == []
    return read_back(tmp_path / "whole")


def test_every_figure_is_a_curve_and_every_sample_a_text(whole):
    assert set(whole) == {
        "loss/train", "loss/val", "perplexity", "bits_per_byte", "learning_rate", "grad_norm", "tokens",
        "tokens_per_second", "memory_gib", "sample/temperature 0.6", "sample/temperature 1.0",
    }  # fmt: skip
    assert whole["loss/train"] == [(step, float32(4 / step)) for step in range(1, 41)]
    assert whole["perplexity"][-1] == (40, float32(math.exp(3 / 40)))
    assert whole["memory_gib"][0] == (1, 1.5)
    assert whole["sample/temperature 1.0"][-1] == (40, "```\nat 40\n```")


@pytest.mark.parametrize("stopped_at, saved_at", [(40, 40), (27, 20), (30, 29), (9, 0)])
def test_stopped_and_resumed_the_curves_are_those_of_the_uninterrupted(whole, tmp_path, stopped_at, saved_at):
    first = Training(tmp_path / "m")
    first.begin()
    first.steps(1, stopped_at)  # and no close(): killed
    second = Training(tmp_path / "m")
    second.cut(saved_at)
    second.begin()
    if saved_at and saved_at % 10 == 0:  # saved before it was evaluated
        second.tracker.row(eval_row(saved_at, 3 / saved_at))
        for temperature in (0.6, 1.0):
            second.tracker.sample({"step": saved_at, "temperature": temperature, "text": f"at {saved_at}"})
    second.steps(saved_at + 1, 40)
    assert read_back(tmp_path / "m") == whole


def test_a_rewind_takes_back_the_points_after_it(whole, tmp_path):
    training = Training(tmp_path / "m")
    training.begin()
    training.steps(1, 26)
    training.cut(15)
    training.tracker.redraw()
    assert read_back(tmp_path / "m")["loss/train"] == whole["loss/train"][:15]
    training.steps(16, 40)
    assert read_back(tmp_path / "m") == whole


def test_a_torn_event_file_of_a_killed_session_does_no_harm(whole, tmp_path):
    first = Training(tmp_path / "m")
    first.begin()
    first.steps(1, 20)
    (events,) = (tmp_path / "m" / "tensorboard").iterdir()
    events.write_bytes(events.read_bytes()[:-7])
    second = Training(tmp_path / "m")
    second.begin()
    second.steps(21, 40)
    assert read_back(tmp_path / "m") == whole


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(data folder, folder of an uninterrupted training)."""
    folder = tmp_path_factory.mktemp("trained")
    data = make_data(folder / "data")
    train(REAL, data, folder / "whole")
    return data, folder / "whole"


@pytest.mark.parametrize("looks", [25, 60])
def test_of_a_real_training_that_is_stopped_and_resumed_too(trained, tmp_path, looks):
    data, folder = trained
    train_with_stops(REAL, data, tmp_path / "m", looks)
    mine, whole = read_back(tmp_path / "m"), read_back(folder)
    assert {"loss/train", "loss/val", "perplexity", "sample/temperature 0.8"} <= set(whole) == set(mine)
    assert len(whole["loss/train"]) == REAL.training.max_iters
    for tag in set(whole) - {"tokens_per_second", "memory_gib"}:
        assert mine[tag] == whole[tag], tag


def test_a_tracker_that_fails_in_the_midst_changes_nothing_of_a_training(trained, tmp_path, monkeypatch):
    def full(self, row):
        if row["step"] > 5:
            raise OSError(28, "No space left on device")
        real(self, row)

    real = tracking.TensorBoard.row
    monkeypatch.setattr(tracking.TensorBoard, "row", full)
    data, folder = trained
    train(REAL, data, tmp_path / "m")
    assert losses(tmp_path / "m") == losses(folder)
    assert len(events(tmp_path / "m", "not tracked")) == 1


def test_figures_that_are_no_finite_numbers_are_left_out():
    row = {"kind": "eval", "step": 3, "val_loss": None, "bits_per_byte": math.nan, "best": True, "note": "x"}
    assert list(curves(row)) == []
    assert dict(curves({"val_loss": 1e9}))["perplexity"] > 1e300  # and no OverflowError


def test_a_full_disk_is_one_event_and_the_training_goes_on(tmp_path):
    training = Training(tmp_path)
    training.begin()
    training.tracker._views["tensorboard"]._file.close()
    training.steps(1, 20)
    training.tracker.redraw()
    training.tracker.close()
    assert len(training.events) == 1
    assert training.events[0][0] == "not tracked" and "tensorboard" in training.events[0][1]


def test_without_tensorboard_there_is_an_event(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.summary.writer.record_writer", None)
    training = Training(tmp_path)
    training.begin()
    training.steps(1, 10)
    assert [name for name, _ in training.events] == ["not tracked"]


def test_asked_for_what_is_not_installed_it_says_how_to_install_it(monkeypatch):
    tracking.require(Config())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        tracking.require(Config(tracking="wandb"))


@pytest.mark.slow
def test_wandb_offline_goes_on_under_the_same_id_and_tells_no_step_twice(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = Config(name="small", tracking="wandb")
    training = Training(tmp_path / "m", config)
    training.begin()
    training.steps(1, 20)
    training.tracker.close()
    assert training.events == []
    resumed = Training(tmp_path / "m", config)
    resumed.cut(12)
    resumed.begin()
    resumed.steps(13, 24)
    resumed.tracker.close()
    assert resumed.events == []
    runs = sorted((tmp_path / "m" / "wandb").glob("offline-run-*"))
    identity = json.loads((tmp_path / "m" / "wandb.json").read_text())["id"]
    assert len(runs) == 2 and all(identity in run.name for run in runs)  # within a second: -1
    wait_for_history(runs[0], range(1, 21))
    wait_for_history(runs[1], range(21, 25))
    settings, figures = wandb_settings(runs[0]), dict(wandb_history(runs[0]))[10]
    assert settings["training.learning_rate"] == 0.01
    assert figures["loss/train"] == 0.4 and figures["perplexity"] == math.exp(0.3)
    assert any("sample/temperature 1.0" in key for key in figures)


@pytest.mark.slow
def test_wandb_gets_a_rewound_training_in_a_run_of_its_own_and_the_former_is_marked(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    training = Training(tmp_path / "m", Config(name="small", tracking="wandb"))
    training.begin()
    training.steps(1, 26)
    training.cut(15)
    training.tracker.redraw()
    training.steps(16, 30)
    training.tracker.redraw()  # nothing is taken back: no third run
    training.tracker.close()
    assert training.events == []
    identity = json.loads((tmp_path / "m" / "wandb.json").read_text())["id"]
    runs = list((tmp_path / "m" / "wandb").glob("offline-run-*"))
    (whole,) = (run for run in runs if identity in run.name)
    (former,) = (run for run in runs if run != whole)
    wait_for_history(former, range(1, 27))
    wait_for_history(whole, range(1, 31))
    assert "sample/temperature 1.0" in "".join(dict(wandb_history(whole))[10])
    last = [record.run for record in wandb_records(former) if record.HasField("run")][-1]
    assert list(last.tags) == ["taken back"]
    assert last.notes == "Steps 16 to 26 were taken back; a later run has the whole training."


@pytest.mark.parametrize("torn", ["", "{", '{"id": "x"}', "[]", None])
def test_notes_for_wandb_that_a_crash_tore_are_as_none(tmp_path, torn):
    if torn is not None:
        (tmp_path / "wandb.json").write_text(torn)
    assert tracking.read_notes(tmp_path / "wandb.json") is None


def test_a_cool_down_that_comes_later_takes_back_what_was_sent_of_it(tmp_path, monkeypatch):
    class Sent(tracking.WeightsAndBiases):
        """Knows the steps that were sent to it, as W&B does."""

        runs: ClassVar[list] = []

        def _open(self, identity, sent):
            self._id, self._sent, self._sent_before = identity, sent, sent
            self._run = types.SimpleNamespace(log=self.log, finish=lambda: None, tags=(), notes="")
            if sent < 0:
                self.runs.append([])
            self._note()

        def log(self, figures, step):
            if "loss/train" in figures:
                self.runs[-1].append((step, figures["learning_rate"]))

    monkeypatch.setattr(tracking, "WeightsAndBiases", Sent)
    monkeypatch.setattr(tracking, "require", lambda config: None)
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    data, short = make_data(tmp_path / "data"), REAL.with_changes({"tracking": "wandb", "training.sample_interval": 0})
    train(short, data, tmp_path / "m")
    longer = short.with_changes({"training.max_iters": 40})
    train(longer, data, tmp_path / "m")
    first, second = Sent.runs
    rates = [(row["step"], row["learning_rate"]) for row in read_rows(tmp_path / "m" / "metrics.jsonl")
             if row["kind"] == "train"]  # fmt: skip
    assert second == rates and len(first) == 24


def wait_for_history(run: Path, steps: range) -> None:
    """W&B's own process writes on after finish()."""
    ends = time.monotonic() + 120
    while (found := [step for step, _ in wandb_history(run)]) != list(steps):
        assert time.monotonic() < ends, found
        time.sleep(0.1)


def wandb_records(run: Path) -> list:
    """A .wandb file: seven bytes, then LevelDB's log format: blocks of 32 KiB with records (crc, length, type)."""
    from wandb.proto import wandb_internal_pb2

    data = next(run.glob("*.wandb")).read_bytes()
    assert data.startswith(b":W&B")
    place, parts, records = 7, [], []
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no header fits into the rest of the block
            place += 32768 - place % 32768
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(wandb_internal_pb2.Record.FromString(b"".join(parts)))
            parts = []
    return records


def wandb_history(run: Path) -> list[tuple[int, dict]]:
    """(step, figures) of each row of a run's history, in order."""
    rows = []
    for record in wandb_records(run):
        if record.HasField("history"):
            items = record.history.item
            figures = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            rows.append((record.history.step.num, figures))
    return rows


def wandb_settings(run: Path) -> dict:
    started = next(record.run for record in wandb_records(run) if record.HasField("run"))
    return {item.key: json.loads(item.value_json) for item in started.config.update}


@each_kind
def test_what_is_no_file_or_folder_of_its_own_makes_way(tmp_path, monkeypatch, put):
    for name in ("tensorboard", "wandb.json"):
        put(tmp_path / name)
    training = Training(tmp_path)
    training.begin()
    training.steps(1, 10)
    training.tracker.close()
    assert training.events == [] and len(read_back(tmp_path)["loss/train"]) == 10
    run = types.SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: run, Settings=dict, Html=str))
    tracking.WeightsAndBiases(tmp_path, Config()).close()
    assert tracking.read_notes(tmp_path / "wandb.json")["step"] == 10
