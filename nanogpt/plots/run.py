"""A whole run: the time of its phases, and its time line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nanogpt.plots.spans import Break, Mark, Span
from nanogpt.plots.style import (
    BLUE,
    INK,
    ORANGE,
    SHADE,
    SOFT,
    VERMILION,
    categories,
    say_empty,
    set_title,
    time_unit,
    write_behind_bar,
    write_figure,
)
from nanogpt.units import duration

COLORS = {"done": BLUE, "failed": VERMILION, "cut short": ORANGE}
HATCHES = {"done": "", "failed": "xxx", "cut short": "///"}
SIGNS = ("X", "D", "v", "s", "^", "P", "*", "o")  # of marks, by what they mean
LEAST_WIDTH = 0.004  # of the whole, so that what took a moment can be seen
WIDTH_OF_GAP = 0.05  # of the whole: a night in which nothing ran must not squeeze the rest


def phase_times_plot(phases: Sequence[tuple[str, float | None, float | None]], path: Path) -> Path:
    """Planned and actual seconds of each phase as pairs of bars; None where there was no plan or no run."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        scale, unit = time_unit(max((max(plan or 0, actual or 0) for _, plan, actual in phases), default=0))
        set_title(axes, f"Time of each phase ({unit})", "", "")
        rows = [
            (-0.19, "#c3c9d2", SOFT, "plan", [plan for _, plan, _ in phases]),
            (0.19, BLUE, INK, "actual", [actual for _, _, actual in phases]),
        ]
        for shift, color, ink, label, times in rows:
            values = [(seconds or 0) / scale for seconds in times]
            places = [place + shift for place in range(len(phases))]
            axes.barh(places, values, height=0.36, color=color, label=label)
            for place, value, seconds in zip(places, values, times, strict=True):
                words = "" if seconds is None and label == "plan" else duration(seconds)
                write_behind_bar(axes, words, (value, place), fontsize=8.5, color=ink)
        categories(axes, [name for name, _, _ in phases])
        axes.margins(x=0.1)
        axes.legend(loc="best")

    return write_figure(draw, path, height=0.9 + 0.46 * max(1, len(phases)))


def timeline_plot(
    lanes: Sequence[str], spans: Sequence[Span], marks: Sequence[Mark], breaks: Sequence[Break], path: Path
) -> Path:
    """When each lane worked, what was cut short, what was mended, and when nothing ran (drawn narrow, with its length).

    The axis counts the time in which the run worked; a break takes a little place of its own.
    """
    whole = max((span.end for span in spans), default=0.0)
    idle = _merged(breaks)
    worked = whole - sum(min(gap.end, whole) - gap.begin for gap in idle if gap.begin < whole)
    place_of_gap = WIDTH_OF_GAP * worked

    def at(moment: float) -> float:
        """Where a moment stands on the axis."""
        earlier = [gap for gap in idle if gap.begin < moment]
        shrunk = sum((min(moment, gap.end) - gap.begin) * (1 - place_of_gap / (gap.end - gap.begin)) for gap in earlier)
        return moment - shrunk

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        scale, unit = time_unit(worked)
        set_title(axes, "Time line of the run", f"time in which it worked ({unit})", "")
        if not spans:
            return say_empty(axes, "nothing was noted")
        _draw_breaks(axes, idle, at, scale)
        for span in spans:
            begin, end = at(span.begin) / scale, at(span.end) / scale
            width = max(end - begin, LEAST_WIDTH * worked / scale)
            axes.barh(
                [lanes.index(span.lane)],
                [width],
                left=begin,
                height=0.56,
                color=COLORS[span.state],
                hatch=HATCHES[span.state],
                edgecolor="white",
                linewidth=0.6,
                zorder=3,
            )
        _draw_marks(axes, lanes, marks, at, scale)
        categories(axes, lanes)
        axes.set_xlim(0, 1.02 * at(whole) / scale)
        axes.set_ylim(len(lanes) - 0.5, -0.9)
        states = [state for state in COLORS if any(span.state == state for span in spans)]
        handles: list[Patch | Line2D] = [
            Patch(facecolor=COLORS[state], hatch=HATCHES[state], edgecolor="white", label=state) for state in states
        ]
        handles += [] if not idle else [Patch(facecolor=SHADE, hatch="....", edgecolor=SOFT, label="nothing ran")]
        handles += _legend_of_marks(marks)
        if states == ["done"] and len(handles) == 1:  # all that there is needs no name
            return
        axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, handlelength=1.6)

    legend_rows = 1 + (2 + len({mark.label for mark in marks})) // 3
    return write_figure(draw, path, height=1.3 + 0.34 * max(1, len(lanes)) + 0.22 * legend_rows)


def _merged(breaks: Sequence[Break]) -> list[Break]:
    """Breaks of some length in order, those that touch as one."""
    merged: list[Break] = []
    for gap in sorted((gap for gap in breaks if gap.end - gap.begin > 1e-3), key=lambda gap: gap.begin):
        if merged and gap.begin <= merged[-1].end:
            before = merged.pop()
            label = before.label if before.label == gap.label else f"{before.label}, {gap.label}"
            gap = Break(before.begin, max(before.end, gap.end), label)
        merged.append(gap)
    return merged


def _draw_breaks(axes: Axes, breaks: Sequence[Break], at: Callable[[float], float], scale: float) -> None:
    for gap in breaks:
        begin, end = at(gap.begin) / scale, at(gap.end) / scale
        axes.axvspan(begin, end, facecolor=SHADE, edgecolor=SOFT, hatch="....", linewidth=0, zorder=1)
        axes.annotate(
            f"{gap.label} {duration(gap.end - gap.begin)}",
            ((begin + end) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=SOFT,
        )


def _draw_marks(
    axes: Axes, lanes: Sequence[str], marks: Sequence[Mark], at: Callable[[float], float], scale: float
) -> None:
    signs = _signs(marks)
    for mark in marks:
        moment = at(mark.time) / scale
        if mark.lane not in lanes:  # of the whole run
            axes.axvline(moment, color=INK, linewidth=1.1, linestyle=(0, (3, 2)), zorder=4)
        row = lanes.index(mark.lane) if mark.lane in lanes else -0.6
        axes.plot(
            [moment], [row], marker=signs[mark.label], markersize=8, color=INK, markeredgecolor="white", zorder=5,
            clip_on=False,
        )  # fmt: skip


def _legend_of_marks(marks: Sequence[Mark]) -> list[Line2D]:
    return [
        Line2D([], [], marker=sign, markersize=8, color=INK, markeredgecolor="white", linestyle="none", label=label)
        for label, sign in _signs(marks).items()
    ]


def _signs(marks: Sequence[Mark]) -> dict[str, str]:
    """A sign for each label; those past the last share it."""
    labels = dict.fromkeys(mark.label for mark in marks)
    return dict(zip_longest(labels, SIGNS[: len(labels)], fillvalue=SIGNS[-1]))
