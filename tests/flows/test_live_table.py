"""The live table at any size: nothing wraps, and what a person needs is there at every size that people have."""

import itertools
import math
import time
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.display.live_table import SPARKS, Losses, Phase, Picture, State
from flows.display.protocol import TrainingProgress

pytestmark = pytest.mark.fast
LABELS = [
    "1 Environment", "2 Implementation", "3 Configuration", "4 Dataset", "5 Training", "6 Evaluation", "7 Deployment",
    "8 Documentation",
]  # fmt: skip
MARKS = {state: state.value[:2] for state in State}


@dataclass
class Budget:
    spent: float
    left: float


def in_training(encoding: str = "utf-8") -> Picture:
    """Four phases done, the first of two models half trained, by a plan."""
    phases = {label: Phase(label) for label in LABELS}
    for label, seconds in zip(LABELS[:4], (2.3, 12.1, 31.0, 3.0), strict=True):
        phases[label].state, phases[label].seconds = State.DONE, seconds
    phases["1 Environment"].state, phases["1 Environment"].steps, phases["1 Environment"].kept = State.KEPT, 5, 5
    training = phases["5 Training"]
    training.state, training.began = State.RUNNING, time.monotonic() - 130
    training.running = {"Train small_model": training.began}
    planned = dict(zip(LABELS, (2.0, 10.0, 30.0, 3.0, 400.0, 40.0, 30.0, 5.0), strict=True))
    heading = "nanogpt-autopilot  run default  budget 10 min"
    picture = Picture(heading, phases, Budget(250.0, 350.0), encoding, planned)
    for step in range(0, 1200, 20):
        picture.show_progress(progress(step, 1.6 + 4 * math.exp(-step / 400)))
    return picture


def progress(step: int, loss: float, model: str = "small_model") -> TrainingProgress:
    return TrainingProgress(model, step, 2000, 1, 2, loss, 1.7012, 5312.0, 75.0, 200.0, 333_000_000, "evaluating")


def drawn(picture: Picture, width: int, height: int) -> list[str]:
    lines = picture.lines(width, height)
    assert len(lines) <= height and all(line.cell_len <= width for line in lines)
    return [line.plain for line in lines]


@pytest.mark.parametrize(("width", "height"), [(200, 60), (120, 40), (80, 24), (60, 20), (40, 20)])
def test_what_a_person_needs_is_there_at_every_usual_size(width, height):
    lines = drawn(in_training(), width, height - 1)
    picture = "\n".join(lines)
    assert "budget 10 min" in picture
    assert (
        "42 %  5:50 left" in picture and "━" in picture
    )  # 75 s of this model, 200 s of the next, 75 s of what follows
    assert "model 1 of 2" in picture and "1:15 left" in picture
    assert "loss 1.8" in picture and "↘" in picture and any(spark in picture for spark in SPARKS)
    assert "Train small_model: evaluating" in picture
    for label, mark, took in zip(LABELS, "✓✓✓✓▶···", ("2.3 s", "12.1 s", "31.0 s", "3.0 s", "2"), strict=False):
        line = next(line for line in lines if label in line)
        assert line.startswith(f"{mark} {label}") and took in line
    assert "5 of 5" in picture


def test_in_few_rows_the_running_phase_and_the_bar_stay():
    for height in range(1, 20):
        lines = drawn(in_training(), 40, height)
        assert len(lines) == height or height > 15
        assert any("left" in line for line in lines)
        assert height < 2 or any(line.startswith("▶ 5 Training") for line in lines)
        assert height < 5 or any("loss 1.8" in line for line in lines)


def test_an_ascii_terminal_gets_the_same_words():
    picture = "\n".join(drawn(in_training("ascii"), 80, 23))
    assert picture.isascii()
    assert (
        "> 5 Training" in picture
        and "= 1 Environment" in picture
        and "loss 1.809 falling" in picture
        and "#" in picture
    )


def test_before_there_is_a_plan_the_budget_bounds_the_time():
    picture = in_training()
    picture.planned = {}
    assert any("at most 5:50 left" in line for line in drawn(picture, 80, 23))
    picture.budget = Budget(700.0, -100.0)
    assert any("11 min 40 s so far" in line for line in drawn(picture, 80, 23))


def test_the_end_is_told_by_what_became_of_the_phases():
    picture = in_training()
    picture.is_over = True
    assert "done after" in drawn(picture, 80, 23)[1]
    picture.phases["5 Training"].state = State.STOPPED
    assert "stopped after" in drawn(picture, 80, 23)[1]
    picture.phases["4 Dataset"].state, picture.phases["4 Dataset"].failure = State.FAILED, "failed: no text"
    lines = drawn(picture, 80, 23)
    assert "failed after" in lines[1] and any(line.startswith("✗ 4 Dataset") and "no text" in line for line in lines)


@pytest.mark.parametrize(("losses", "trend"), [([3, 2, 1, 0.9], -1), ([1, 1, 1, 1], 0), ([1, 1, 2, 3], 1), ([1], 0)])
def test_the_trend_is_of_the_latest_losses(losses, trend):
    seen = Losses()
    for step, loss in enumerate(losses):
        seen.add(progress(step, loss))
    assert seen.trend() == trend


def test_another_model_or_a_rewound_training_begins_a_new_curve():
    seen = Losses()
    for step in range(1000):
        seen.add(progress(step, 10.0 - step / 1000))
    assert seen.trend() == -1 and len(seen.sparkline(12)) == 12
    assert all(before >= after for before, after in itertools.pairwise(seen.sparkline(12)))
    seen.add(progress(10, 5.0))
    assert seen.sparkline(12) == ""
    seen.add(progress(20, 5.0, "medium_model"))
    assert seen.trend() == 0


words = st.text(max_size=30)


@given(
    st.integers(1, 150), st.integers(1, 50), st.lists(words, min_size=1, max_size=9, unique=True), words, words,
    st.sampled_from(list(State)), st.sampled_from(["utf-8", "ascii", "cp1252"]),
)  # fmt: skip
def test_any_words_at_any_size_stay_within_it(width, height, labels, heading, title, state, encoding):
    phases = {label: Phase(label, state, running={title: 0.0}, failure=title) for label in labels}
    picture = Picture(heading, phases, Budget(1.0, 2.0), encoding)
    picture.show_progress(TrainingProgress(title, 1, 2, loss=1.0, activity=heading, seconds_left=3.0))
    for line in drawn(picture, width, height):
        line.encode(encoding)
        assert not set("\n\t") & set(line)
