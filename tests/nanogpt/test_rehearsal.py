"""A rehearsal measures what a training does: real steps, evaluations, samples and checkpoints, each in seconds."""

import json

import pytest

from nanogpt.measure import rehearsal
from nanogpt.records import to_json
from nanogpt.results.speed import StepSpeed
from tests.nanogpt.training_case import tiny

pytestmark = pytest.mark.xdist_group("rehearsal")
KEYS = {"seconds_per_step", "evaluation_seconds_per_token", "sample_seconds", "save_seconds", "peak_memory_bytes"}


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsal")
    config = tiny().with_changes({"model.vocab_size": 65, "device.mixed_precision": False, "device.threads": 1})
    return rehearsal.rehearse(config.model_dump(), "cpu", str(folder), seconds=0.3), folder


def test_each_figure_is_there_and_is_plain_json(rehearsed):
    figures, _ = rehearsed
    json.dumps(to_json(figures), allow_nan=False)
    assert all(getattr(figures, key) > 0 for key in KEYS)


def test_nothing_is_left_in_the_folder(rehearsed):
    assert list(rehearsed[1].iterdir()) == []


def speed(seconds_per_step: float, steps: int, peak: int) -> StepSpeed:
    return StepSpeed(
        tokens_per_second=1.0,
        flops_per_second=1.0,
        matmul_flops_per_second=1.0,
        share_of_matmul=1.0,
        share_of_peak=None,
        parameters=1,
        seconds_per_step=seconds_per_step,
        peak_memory_bytes=peak,
        mixed_precision=False,
        precision="float32",
        device="cpu",
        threads=1,
        steps=steps,
    )


def windows_of(monkeypatch, *paces: float, steps: int) -> None:
    """Each window of steps finds another pace."""
    pace = iter(paces)

    def timed(self, seconds):
        step = next(pace)
        return speed(step, steps, peak=int(step * 100))

    monkeypatch.setattr(rehearsal.TimedSteps, "speed", timed)


def test_the_speed_is_that_of_the_middle_window(monkeypatch, tmp_path):
    """A window during another program's burst of work, or one that was lucky, decides nothing."""
    windows_of(monkeypatch, 0.5, 0.1, 0.2, steps=3)
    config = tiny().with_changes({"model.vocab_size": 65, "device.mixed_precision": False})
    figures = rehearsal.rehearse(config.model_dump(), "cpu", str(tmp_path), seconds=3.0)
    assert figures.seconds_per_step == 0.2 and figures.peak_memory_bytes == 50


def test_a_model_of_long_steps_is_measured_once(monkeypatch, tmp_path):
    windows_of(monkeypatch, 20.0, steps=1)
    config = tiny().with_changes({"model.vocab_size": 65, "device.mixed_precision": False})
    assert rehearsal.rehearse(config.model_dump(), "cpu", str(tmp_path), seconds=3.0).seconds_per_step == 20.0
