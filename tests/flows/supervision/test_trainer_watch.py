"""What a trainer shows is passed on, and what a failed attempt cost is counted."""

import json
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest

from flows.context.paths import CHECKOUT
from flows.supervision import trainer_watch
from flows.supervision.model_files import ModelFiles
from flows.supervision.trainer_watch import TrainerWatch
from nanogpt import durable
from nanogpt.results.training import Heartbeat, TrainerEvent
from tests.flows.parts import Parts

pytestmark = pytest.mark.fast


class Case:
    """A watch over a trainer, whose clock is `now`; what it passed on."""

    def __init__(self, parts: Parts, monkeypatch):
        self.parts, self.files = parts, ModelFiles(parts.paths.model("tiny"))
        self.files.folder.mkdir()
        self.now, self.mended, self.trained, self.shown = time.monotonic(), [], [], []
        self.images = []
        monkeypatch.setattr(trainer_watch, "time", SimpleNamespace(monotonic=lambda: self.now))
        parts.display.progress = self.shown.append
        self.watch = TrainerWatch("tiny", self.files, parts.journal, parts.clock, parts.pulse, self.mended.append,
                                  lambda: self.trained.append(self.now), place=(1, 2, 60.0))  # fmt: skip

    def beat(self, step: int, activity: str = "training", seconds: float = 1.0) -> None:
        self.now += seconds
        self.watch(Heartbeat(step, 100, activity, loss=2.5, eta_seconds=30.0))


@pytest.fixture
def case(tmp_path, monkeypatch) -> Case:
    return Case(Parts(tmp_path), monkeypatch)


def test_a_heartbeat_is_progress_of_this_model_among_those_of_the_plan(case):
    case.beat(0, "loading")
    assert case.trained == []
    case.beat(50)
    assert len(case.trained) == 1 and case.parts.pulses == 2
    progress = case.shown[-1]
    assert (progress.fraction, progress.position, progress.models, progress.seconds_after) == (0.5, 1, 2, 60.0)
    assert progress.line().startswith("model 1 of 2  tiny  step 50/100  loss 2.500")
    case.watch(Heartbeat(50, 140, "training", is_estimate=True))
    assert case.shown[-1].where() == "model 1 of 2  tiny  step 50 of about 140"
    case.watch(Heartbeat(1, 0, "training"))
    assert (case.shown[-1].where(), case.shown[-1].fraction) == ("model 1 of 2  tiny  step 1", 0.0)


def test_what_the_trainer_mended_is_passed_on_but_not_what_is_usual(case):
    for event, message in (("skipped", "spike: loss 9"), ("skipped", "overflow: 2^15"), ("evaluated", "val 2.1")):
        case.files.append_event(TrainerEvent(event, 3, message))
    case.beat(4)
    assert [event.message for event in case.mended] == ["spike: loss 9"]


def test_the_clock_is_noted_now_and_then(case):
    case.beat(1)
    assert not case.parts.clock.path.exists()
    case.beat(2, seconds=trainer_watch.CLOCK_SECONDS)
    assert case.parts.clock.path.exists()


def test_the_loss_plot_is_drawn_now_and_then_and_shown(case):
    case.parts.display.image = lambda *shown: case.images.append(shown)
    rows = ({"kind": "train", "step": step, "loss": 3.0 / step} for step in (1, 2))
    durable.write_text(case.files.folder / "metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    case.beat(1)
    assert case.images == []
    case.beat(2, seconds=trainer_watch.PLOT_SECONDS)
    plot = case.files.folder / "loss.svg"
    assert case.images == [("loss-tiny", plot, "tiny: the loss")] and "<svg" in plot.read_text()


def test_a_plot_that_cannot_be_drawn_costs_nothing_but_a_line(case, monkeypatch):
    def fail(folder):
        raise ValueError("no room for the axes")

    monkeypatch.setattr(trainer_watch, "draw_loss", fail)
    case.beat(1, seconds=trainer_watch.PLOT_SECONDS)
    assert "no loss plot of tiny: ValueError: no room for the axes" in case.parts.log


def test_an_attempt_costs_what_it_did_after_its_last_checkpoint_and_its_start(case):
    case.beat(40, seconds=80.0)
    assert (case.watch.saved_steps(), case.watch.steps_lost(), case.watch.lost_seconds()) == (0, 40, 80.0)
    durable.write_json(case.files.folder / "checkpoints/step-00000030/manifest.json", {})
    assert (case.watch.saved_steps(), case.watch.steps_lost(), case.watch.lost_seconds()) == (30, 10, 20.0)


@pytest.mark.parametrize("is_there", [True, False])
def test_what_draws_is_loaded_aside_and_nothing_is_said_where_it_cannot_be(is_there):
    program = textwrap.dedent(f"""
        import sys, threading
        from flows.supervision.trainer_watch import load_drawing
        if not {is_there}:
            sys.modules["matplotlib"] = None
        assert "nanogpt.plots.training" not in sys.modules
        load_drawing()
        [thread.join() for thread in threading.enumerate() if thread is not threading.current_thread()]
        print("nanogpt.plots.training" in sys.modules)
    """)
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == (f"{is_there}\n", "")
