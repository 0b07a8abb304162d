"""Figures are drawn from metrics files as they are: unfinished, empty, with holes; the same numbers, the same bytes."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import pytest

from nanogpt.plots.comparison import curves_plot
from nanogpt.plots.data import token_frequencies_plot, token_statistics_plot
from nanogpt.plots.measurements import profile_plot
from nanogpt.plots.models import baselines_plot, comparison_plot
from nanogpt.plots.run import phase_times_plot, timeline_plot
from nanogpt.plots.spans import Break, Mark, Span
from nanogpt.plots.study import corners_with_room
from nanogpt.plots.style import MOST_POINTS, PART_COLORS, STYLE, smoothed, thinned
from nanogpt.plots.training import _shade_cool_down, learning_rate_plot, loss_plot, speed_plot
from nanogpt.results.text import TokenFrequencies, TokenStatistics
from nanogpt.training.record.metrics import evaluations_with_tokens, read_metrics

PLOTS_OF_A_MODEL = [loss_plot, learning_rate_plot, speed_plot]


def model_folder(path: Path, steps: int = 40, decay_start: int = 20) -> Path:
    path.mkdir(parents=True)
    rows = []
    for step in range(1, steps + 1):
        rate = 0.01 if step <= decay_start else 0.01 * (steps + 1 - step) / (steps - decay_start)
        rows.append({
            "kind": "train", "step": step, "loss": 4 / step**0.3, "learning_rate": rate, "grad_norm": 1 / step,
            "tokens": 100 * step, "seconds": 0.5 * step, "tokens_per_second": 200.0, "memory_bytes": 2**28,
        })  # fmt: skip
        if step % 10 == 0:
            rows.append({"kind": "eval", "step": step, "val_loss": 4.1 / step**0.3, "train_loss": 4 / step**0.3,
                         "bits_per_byte": 6 / step**0.3, "seconds": 0.5 * step, "best": True})  # fmt: skip
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("plot", PLOTS_OF_A_MODEL)
def test_a_figure_is_a_whole_picture_and_the_same_numbers_give_the_same_bytes(plot, tmp_path):
    folder = model_folder(tmp_path / "tiny")
    first, second = plot(folder, tmp_path / "a.svg"), plot(folder, tmp_path / "b.svg")
    assert ElementTree.parse(first).getroot().tag.endswith("svg")
    assert first.read_bytes() == second.read_bytes()


def test_png_is_drawn_when_the_path_says_so(tmp_path):
    picture = loss_plot(model_folder(tmp_path / "tiny"), tmp_path / "loss.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


@pytest.mark.parametrize("plot", PLOTS_OF_A_MODEL)
def test_before_the_first_row_a_figure_says_that_there_is_nothing(plot, tmp_path):
    (tmp_path / "tiny").mkdir()
    assert plot(tmp_path / "tiny", tmp_path / "a.svg").stat().st_size > 1000


def test_values_that_are_no_finite_numbers_are_left_out(tmp_path):
    folder = model_folder(tmp_path / "tiny")
    rows = [{"kind": "train", "step": 41, "loss": float("nan"), "learning_rate": None, "seconds": 21.0},
            {"kind": "eval", "step": 41, "val_loss": float("inf"), "bits_per_byte": None}]  # fmt: skip
    with open(folder / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    for plot in PLOTS_OF_A_MODEL:
        plot(folder, tmp_path / "a.svg")
    comparison_plot({"tiny": folder}, tmp_path / "b.svg", {"5-gram": 2.4})


def test_averaged_weights_have_a_curve_and_may_be_the_best(tmp_path, monkeypatch):
    folder = model_folder(tmp_path / "tiny")
    plain = loss_plot(folder, tmp_path / "a.svg").read_bytes()
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"kind": "eval", "step": 40, "val_loss": 1.4, "average_val_loss": 0.9}) + "\n")
    marked = []
    monkeypatch.setattr("nanogpt.plots.training._mark_best", lambda axes, steps, values: marked.append(min(values)))
    assert loss_plot(folder, tmp_path / "b.svg").read_bytes() != plain
    assert marked == [0.9]


def test_a_plateau_and_a_fall_are_a_cool_down_and_a_cosine_is_none(tmp_path):
    stable = read_metrics(model_folder(tmp_path / "stable"))[0]
    cosine = [dict(row, learning_rate=1 / row["step"]) for row in stable]
    drawn = []

    class Axes:
        def axvspan(self, start, end, **_):
            drawn.append((start, end))

    _shade_cool_down(Axes(), stable)
    _shade_cool_down(Axes(), cosine)
    assert drawn == [(21, 40)]  # the row at step 21 still has the peak's rate


def test_bars_take_any_names_and_missing_times(tmp_path):
    names = {"<b>&": 6.0, "$x_1$": 2.0, "": 1.0, "\udcff\x1b": 1.5}
    ElementTree.parse(baselines_plot(names, {"model": 1.5}, tmp_path / "a.svg"))
    ElementTree.parse(baselines_plot({}, {}, tmp_path / "b.svg"))
    ElementTree.parse(phase_times_plot([("1 A", 3.0, None), ("2 B", None, 7200.0)], tmp_path / "c.svg"))
    ElementTree.parse(phase_times_plot([], tmp_path / "d.svg"))


def test_the_names_in_a_legend_are_no_formulas(tmp_path):
    rows, evaluations = read_metrics(model_folder(tmp_path / "tiny"))
    evaluations.append({**evaluations[-1], "bits_per_byte": 10**400})
    curves = {"a$\\frac$b": (rows, evaluations), "$": (rows, evaluations), "\udcff\x1b": (rows, evaluations)}
    ElementTree.parse(curves_plot(curves, tmp_path / "a.svg"))


def test_drawing_touches_no_global_state(tmp_path):
    before = {key: matplotlib.rcParams[key] for key in STYLE}
    loss_plot(model_folder(tmp_path / "tiny"), tmp_path / "a.svg")
    assert {key: matplotlib.rcParams[key] for key in STYLE} == before


@pytest.mark.parametrize("length", [0, 1, 2, 3, 60, 301])
def test_smoothing_keeps_length_range_and_a_straight_line(length):
    zigzag = [(-1.0) ** i * i for i in range(length)]
    smooth = smoothed(zigzag)
    assert len(smooth) == length
    assert all(min(zigzag) <= value <= max(zigzag) for value in smooth)
    line = [0.5 * i for i in range(length)]
    assert smoothed(line) == pytest.approx(line)


@pytest.mark.parametrize("last", [0.0, 2.0])
def test_one_noisy_point_at_the_end_is_no_fall_and_no_rise(last):
    assert smoothed([*[1.0] * 499, last])[-1] == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("length", [0, 1, 499, 500, 501, 4999])
def test_thinning_keeps_the_ends_and_few_points(length):
    xs = [float(x) for x in range(length)]
    kept, _ = thinned(xs, xs)
    assert len(kept) <= MOST_POINTS + 1
    assert not xs or (kept[0], kept[-1]) == (xs[0], xs[-1])


def profile(**changed) -> dict:
    seconds = {"data": 0.001, "forward": 0.03, "backward": 0.06, "AdamW": 0.002, "Muon": 0.02} | changed
    whole = sum(seconds.values())
    return {
        "seconds": seconds, "shares": {part: value / whole for part, value in seconds.items()}, "parameters": 800_000,
        "tokens_per_second": 7000.0, "flops_per_second": 3e10, "share_of_matmul": 0.25, "device": "cpu",
        "precision": "bfloat16",
    }  # fmt: skip


def test_a_profile_is_drawn_with_a_bar_for_each_part(tmp_path):
    first = profile_plot("tiny", profile(), tmp_path / "a.svg")
    again = profile_plot("tiny", profile(), tmp_path / "b.svg")
    more = profile_plot("tiny", profile(evaluation=0.01, checkpoint=0.001), tmp_path / "c.svg")
    assert first.read_bytes() == again.read_bytes()
    height = [float(ElementTree.parse(path).getroot().get("viewBox").split()[3]) for path in (first, more)]
    assert height[0] < height[1]


def test_every_part_of_a_profile_has_its_colour():
    from nanogpt.measure.profiler import PARTS

    assert set(PART_COLORS) == set(PARTS)
    assert len(set(PART_COLORS.values())) == len(PARTS)


def test_evaluations_know_the_tokens_of_their_step():
    train = [{"step": 1, "tokens": 10}, {"step": 5, "tokens": 50}, {"step": 7, "tokens": 90}]
    found = evaluations_with_tokens(train, [{"step": step} for step in (1, 3, 6, 14)])
    assert [row["tokens"] for row in found] == [10, 30, 70, 180]  # past the last row at its pace
    assert evaluations_with_tokens([], [{"step": 3}]) == [{"step": 3, "tokens": None}]


def test_all_models_stand_over_tokens_time_and_computation(tmp_path):
    folders = {name: model_folder(tmp_path / name, steps) for name, steps in (("micro", 40), ("$x$", 400))}
    costs = {"micro": 5e6, "$x$": 3e7}
    with_costs = comparison_plot(folders, tmp_path / "a.svg", {"5-gram": 2.4}, costs).read_bytes()
    assert with_costs == comparison_plot(folders, tmp_path / "b.svg", {"5-gram": 2.4}, costs).read_bytes()
    assert with_costs != comparison_plot(folders, tmp_path / "c.svg", {"5-gram": 2.4}).read_bytes()


def test_what_happened_to_a_training_is_marked_and_what_always_does_is_not(tmp_path):
    folder = model_folder(tmp_path / "tiny")
    plain = speed_plot(folder, tmp_path / "a.svg").read_bytes()
    rows = [{"event": "started", "step": 0, "message": ""}, {"event": "finished", "step": 40, "message": ""}]
    (folder / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert speed_plot(folder, tmp_path / "b.svg").read_bytes() == plain
    with open(folder / "events.jsonl", "a") as file:
        file.write(json.dumps({"event": "out_of_memory", "step": 13, "message": ""}) + "\n")
    assert speed_plot(folder, tmp_path / "c.svg").read_bytes() != plain


def test_a_time_line_has_room_for_a_night_in_which_nothing_ran(tmp_path):
    night = 40_000.0
    spans = [Span("5 Training", 0, 60, "cut short"), Span("5 Training", 60 + night, 200 + night, "done"),
             Span("6 $Evaluation$", 200 + night, 200 + night, "failed")]  # fmt: skip
    marks = [Mark("", 60, "killed"), Mark("5 Training", 100 + night, "out of memory")]
    breaks = [Break(60, 60 + night, "not running"), Break(70, 90, "asleep")]
    lanes = ["5 Training", "6 $Evaluation$"]
    first = timeline_plot(lanes, spans, marks, breaks, tmp_path / "a.svg").read_bytes()
    assert first == timeline_plot(lanes, spans, marks, breaks, tmp_path / "b.svg").read_bytes()
    assert ElementTree.fromstring(first).tag.endswith("svg")
    timeline_plot([], [], [], [], tmp_path / "c.svg")


def test_a_time_line_on_which_all_is_well_has_no_legend(tmp_path):
    done, failed = Span("5 Training", 0, 60, "done"), Span("5 Training", 60, 90, "failed")
    plain = timeline_plot(["5 Training"], [done], [], [], tmp_path / "a.svg").read_text()
    assert "legend" not in plain
    assert "legend" in timeline_plot(["5 Training"], [done, failed], [], [], tmp_path / "b.svg").read_text()


@pytest.mark.filterwarnings("error")
def test_tokens_that_no_font_has_are_drawn_by_their_code(tmp_path):
    found = TokenStatistics("char", 4, 4, 10, {"train": 10}, 1.0, [(" ", 5), ("\n", 3), ("\u6f22", 1), ("$", 1)], " ")
    assert ElementTree.parse(token_statistics_plot([found], tmp_path / "a.svg")).getroot().tag.endswith("svg")
    token_statistics_plot([], tmp_path / "b.svg")


@pytest.mark.filterwarnings("error")
def test_how_often_tokens_occur_is_drawn_of_one_and_of_several_vocabularies(tmp_path):
    ranks, lengths = [(1, 900), (2, 90), (10, 10)], [(1, 300), (4, 700)]
    found = TokenFrequencies("bpe", 20, 10, 1000, ranks, lengths, [(0.5, 1)])
    alone = TokenFrequencies("$one$", 1, 1, 7, [(1, 7)], [(1, 7)], [(0.5, 1)])
    for name, vocabularies in (("a", {"bpe": found, "$one$": alone}), ("b", {"one": alone}), ("c", {})):
        assert ElementTree.parse(token_frequencies_plot(vocabularies, tmp_path / f"{name}.svg"))


def test_names_of_points_that_lie_together_stand_in_different_corners():
    alone, together = (300.0, 300.0), [(100.0, 100.0), (101.0, 101.0), (102.0, 100.0)]
    corners = corners_with_room([alone, *together], 4)
    assert corners[0] == (4.0, 2.5)  # where it stands when nothing is near
    assert len(set(corners[1:])) == 3
    assert corners_with_room([alone], 1) == [(4.0, 2.5)] and corners_with_room([], 0) == []
