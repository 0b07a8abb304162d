"""A rehearsal measures what a training does: real steps, evaluations, samples and checkpoints, each in seconds."""

import json

import pytest

from nanogpt.measure import rehearsal
from tests.nanogpt.training_case import tiny

KEYS = {"seconds_per_step", "evaluation_seconds_per_token", "sample_seconds", "save_seconds", "peak_memory_bytes"}


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsal")
    config = tiny().with_changes({"model.vocab_size": 65, "device.mixed_precision": False, "device.threads": 1})
    return rehearsal.rehearse(config.model_dump(), "cpu", str(folder), seconds=0.3), folder


def test_each_figure_is_there_and_is_plain_json(rehearsed):
    figures, _ = rehearsed
    json.dumps(figures, allow_nan=False)
    assert set(figures) >= KEYS
    assert all(figures[key] > 0 for key in KEYS)


def test_nothing_is_left_in_the_folder(rehearsed):
    assert list(rehearsed[1].iterdir()) == []


def test_the_speed_is_that_of_the_middle_window(monkeypatch, tmp_path):
    """A window beside another program's burst of work, or one that was lucky, decides nothing."""
    pace = iter([0.5, 0.1, 0.2])

    def measure(config, vocab_size, seconds):
        step = next(pace)
        return {"seconds_per_step": step, "steps": 3, "peak_memory_bytes": int(step * 100)}

    monkeypatch.setattr(rehearsal, "measure_speed", measure)
    config = tiny().with_changes({"model.vocab_size": 65, "device.mixed_precision": False})
    figures = rehearsal.rehearse(config.model_dump(), "cpu", str(tmp_path), seconds=3.0)
    assert figures["seconds_per_step"] == 0.2 and figures["peak_memory_bytes"] == 50


def test_a_model_of_long_steps_is_measured_once(monkeypatch, tmp_path):
    monkeypatch.setattr(rehearsal, "measure_speed", lambda config, vocab_size, seconds: {
        "seconds_per_step": next(windows), "steps": 1, "peak_memory_bytes": 1})  # fmt: skip
    windows = iter([20.0])
    config = tiny().with_changes({"model.vocab_size": 65, "device.mixed_precision": False})
    assert rehearsal.rehearse(config.model_dump(), "cpu", str(tmp_path), seconds=3.0)["seconds_per_step"] == 20.0
