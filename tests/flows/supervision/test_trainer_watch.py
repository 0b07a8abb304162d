"""What is passed on of a trainer, and what a failure of it costs."""

from pathlib import Path

import pytest

from flows.context.action_log import ActionLog
from flows.context.budget_clock import BudgetClock
from flows.context.journal import Journal
from flows.supervision import trainer_watch
from flows.supervision.model_files import ModelFiles
from flows.supervision.trainer_watch import TrainerWatch
from nanogpt.results import Heartbeat

pytestmark = pytest.mark.fast


@pytest.fixture
def watch(tmp_path) -> TrainerWatch:
    return watch_of(tmp_path)


def watch_of(folder: Path) -> TrainerWatch:
    journal = Journal(ActionLog(folder / "log.txt"), folder / "remedies.json")
    return TrainerWatch("micro", ModelFiles(folder / "micro"), journal, BudgetClock(folder / "clock.json", 600.0),
                        pulse=lambda: None)  # fmt: skip


def test_what_an_attempt_lost_is_counted_from_its_own_checkpoints(tmp_path):
    checkpoints = tmp_path / "micro/checkpoints"
    (checkpoints / "step-00000100").mkdir(parents=True)
    (checkpoints / "step-00000400.bad").mkdir()
    watch = watch_of(tmp_path)
    assert (watch.steps_lost(), watch.saved_steps()) == (0, 0)
    watch(Heartbeat(150, 1000, "training"))
    assert (watch.steps_lost(), watch.saved_steps()) == (50, 0)
    wasted = watch.lost_seconds()
    (checkpoints / "step-00000140").mkdir()
    assert (watch.steps_lost(), watch.saved_steps()) == (10, 40)
    assert 0 < watch.lost_seconds() < max(wasted, 1.0)


def test_a_plot_that_fails_does_not_stop_the_training(watch, monkeypatch, tmp_path):
    def fail(folder):
        raise ValueError("no room for the axes")

    monkeypatch.setattr(trainer_watch, "draw_loss", fail)
    monkeypatch.setattr(trainer_watch, "PLOT_SECONDS", 0.0)
    watch(Heartbeat(1, 10, "training"))
    assert "no loss plot of micro: ValueError: no room for the axes" in (tmp_path / "log.txt").read_text()
