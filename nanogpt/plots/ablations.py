"""The ablations in one figure: what each change costs, and how the most telling ones learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanogpt.plots.style import (
    GREEN,
    INK,
    LINES,
    SOFT,
    VERMILION,
    categories,
    set_title,
    thinned,
    write_figure,
)
from nanogpt.results.ablations import Ablation, AblationRow, AblationTable

MOST_CURVES = 3  # next to the control's
REACH = 0.25  # nats a token: what is further away is written at the edge
MARKS = {  # shape and colour of a verdict; a clear one is filled
    "worse": ("o", VERMILION, VERMILION),
    "better": ("D", GREEN, GREEN),
    "no clear difference": ("o", SOFT, "white"),
    "not known": ("s", SOFT, "white"),
}


def ablations_plot(table: AblationTable, ablations: Sequence[Ablation], path: Path) -> Path:
    """Difference from the control with its 95 % interval, every variant; below, the training loss over the steps."""
    rows = sorted(table.rows[1:], key=_place)
    heights = 0.95 + 0.3 * max(3, len(rows)), 2.9  # inches

    def draw(figure: Figure) -> None:
        parts: Any = figure.subfigures(2, 1, height_ratios=heights)  # an array of two
        above, below = parts
        _draw_differences(above.subplots(), rows)
        _draw_curves(below.subplots(), table, rows, ablations)

    return write_figure(draw, path, height=sum(heights))


def _place(row: AblationRow) -> float:
    """Worst first; what broke is the worst."""
    return -(float("inf") if row.verdict == "not finite" else row.difference or 0.0)


def _draw_differences(axes: Axes, rows: Sequence[AblationRow]) -> None:
    scale = "validation loss minus the control's (nats a token): worse to the right"
    seeds = max(len(row.losses) for row in rows)
    of_what = f"mean and 95 % interval of {seeds} seeds" if seeds > 1 else "one seed"
    set_title(axes, f"What each change costs: {of_what}", scale, "")
    ends = [(row.difference + sign * (row.margin or 0.0)) for row in rows if row.difference is not None
            for sign in (-1, 1)]  # fmt: skip
    axes.set_xlim(max(-REACH, min([-0.02, *ends]) - 0.01), min(REACH, max([0.05, *ends]) + 0.01))
    axes.axvline(0, color=INK, linewidth=1)
    for place, row in enumerate(rows):
        _draw_row(axes, place, row)
    categories(axes, [row.title for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)


def _draw_row(axes: Axes, place: int, row: AblationRow) -> None:
    if row.verdict == "not finite" or row.difference is None:
        _write(axes, place, row.verdict, fontweight="bold")
        return
    marker, edge, face = MARKS[row.verdict]
    margin, (_, last) = row.margin or 0.0, axes.get_xlim()
    if row.difference > last:  # off this scale
        arrow = {"arrowstyle": "-|>", "color": edge, "linewidth": 1.8, "mutation_scale": 14, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (last, place), xytext=(0.86 * last, place), arrowprops=arrow)
    else:
        axes.errorbar(row.difference, place, xerr=margin, fmt="none", ecolor=edge, elinewidth=1.6, capsize=3)
        axes.plot(row.difference, place, marker=marker, markersize=6.5, markeredgecolor=edge, markerfacecolor=face)
    is_clear = row.verdict in ("worse", "better")
    figures = f"{row.difference:+.3f}" + ("" if row.margin is None else f" ± {margin:.3f}")
    _write(axes, place, figures, fontweight="bold" if is_clear else "normal")


def _write(axes: Axes, place: float, text: str, **style: Any) -> None:
    axes.annotate(
        text, (1, place), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points", va="center",
        fontsize=9, annotation_clip=False, **style,
    )  # fmt: skip


def _draw_curves(axes: Axes, table: AblationTable, rows: Sequence[AblationRow], ablations: Sequence[Ablation]) -> None:
    title = "How the control and the furthest from it learn"
    set_title(axes, title, "step", "training loss (nats a token)")
    furthest = sorted(rows, key=lambda row: -abs(_place(row)))[:MOST_CURVES]
    for (color, dash), row in zip(LINES, [table.rows[0], *furthest], strict=False):
        curves = [dict(run.curve) for run in ablations if run.variant == row.variant]
        steps = sorted(set(curves[0]).intersection(*curves[1:]))
        means = [sum(curve[step] for curve in curves) / len(curves) for step in steps]
        width = 2.6 if row is table.rows[0] else 1.7
        points = thinned([float(step) for step in steps], means)
        axes.plot(*points, color=color, linestyle=dash, linewidth=width, label=row.title)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, table.steps)
    axes.legend(loc="best", handlelength=3.2)
