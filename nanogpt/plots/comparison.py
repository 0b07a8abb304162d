"""Trainings laid over one another, and their differences with what chance alone may make."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nanogpt.plots.style import (
    BLUE,
    GRID,
    INK,
    LINES,
    SOFT,
    VERMILION,
    Line,
    Row,
    categories,
    column,
    give_room,
    set_title,
    smoothed,
    thinned,
    time_unit,
    write_figure,
)
from nanogpt.results.study import RunComparison

MARKERS = "osD^vPX"  # one more than there are lines: the seventh run has the first one's colour and another marker
Curves = Mapping[str, tuple[list[Row], list[Row]]]  # {name of the run: (train rows, eval rows) of its metrics}


def curves_plot(curves: Curves, path: Path) -> Path:
    """Bits per byte on the validation split over tokens, and over seconds; thin: the training loss, smoothed."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        scale, unit = time_unit(_longest(curves, "seconds"))
        thousands, counted = (1e6, "millions") if _longest(curves, "tokens") >= 2e6 else (1e3, "thousands")
        set_title(left, "Over tokens", f"tokens seen ({counted})", "bits per byte, validation")
        set_title(right, "Over time (thin: training loss)", f"training time ({unit})", "")
        shown: list[float] = []
        styles = zip(cycle(LINES), cycle(MARKERS), strict=False)
        for (name, (rows, evaluations)), style in zip(curves.items(), styles, strict=False):
            run = rows, _with_tokens(rows, evaluations)
            for axes, x in ((left, ("tokens", thousands)), (right, ("seconds", scale))):
                shown += _draw_run(axes, name, run, x, style)
        left.xaxis.set_major_locator(MaxNLocator(6))
        give_room(left, [], shown)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(curves)))

    return write_figure(draw, path, height=3.7 + 0.22 * ((len(curves) - 1) // 3))


def _draw_run(
    axes: Axes, name: str, run: tuple[list[Row], list[Row]], x: tuple[str, float], style: tuple[Line, str]
) -> list[float]:
    """Over x: its column and unit. The values of the thick line."""
    (rows, evaluations), (key, unit), ((color, dash), marker) = run, x, style
    at, bits = column(evaluations, key, "bits_per_byte")
    places = [place / unit for place in at]
    axes.plot(places, bits, color=color, linestyle=dash, marker=marker, markersize=4, label=name)
    _, nats = column(evaluations, "bits_per_byte", "val_loss")
    if bits and nats and nats[-1]:
        per_nat = bits[-1] / nats[-1]
        seen, losses = column(rows, key, "loss")
        xs, ys = thinned([place / unit for place in seen], [loss * per_nat for loss in smoothed(losses)])
        axes.plot(xs, ys, color=color, linewidth=0.7, alpha=0.55)
    return bits


def differences_plot(comparison: RunComparison, path: Path) -> Path:
    """Each run's bits per byte less those of the best one, and what chance may make of it: thick by the text alone."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        best = comparison.runs[0]
        set_title(axes, f"Behind {best.name} ({best.bits_per_byte.value:.4f} bits per byte)", "bits per byte more", "")
        axes.axvline(0, color=SOFT, linewidth=1.2, linestyle=(0, (3, 2)))
        for place, found in enumerate(comparison.differences):
            value, color = found.by_text.value, VERMILION if found.is_clear else BLUE
            axes.plot([value - found.noise, value + found.noise], [place, place], color=color, linewidth=1.6)
            axes.plot([found.by_text.low, found.by_text.high], [place, place], color=color, linewidth=6, alpha=0.55)
            axes.plot([value], [place], color=color, marker="X" if found.is_clear else "o", markersize=9)
            words = "clearly worse" if found.is_clear else "no clear difference"
            axes.annotate(
                f"{value:+.4f}, {'the same weights' if found.same_weights else words}",
                (max(value, 0), place),
                xytext=(0, 11),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=INK,
            )
        axes.plot([], [], color=SOFT, linewidth=6, alpha=0.55, label="by the text, 95 %")
        axes.plot([], [], color=SOFT, linewidth=1.6, label="by text and seed, 95 %")
        categories(axes, [found.run for found in comparison.differences])
        axes.set_ylim(len(comparison.differences) - 0.5, -0.8)
        axes.grid(axis="x", color=GRID)
        axes.margins(x=0.25)
        figure.legend(loc="outside lower center", ncols=2)

    return write_figure(draw, path, height=1.7 + 0.55 * len(comparison.differences))


def _longest(curves: Curves, x: str) -> float:
    return max((max(column(rows, x, "loss")[0], default=0) for rows, _ in curves.values()), default=0)


def _with_tokens(rows: list[Row], evaluations: list[Row]) -> list[Row]:
    """The evaluations with the tokens seen at their step, between those of the train rows."""
    steps, tokens = column(rows, "step", "tokens")
    if not steps:
        return evaluations
    return [{**row, "tokens": float(np.interp(row["step"], [0, *steps], [0, *tokens]))} for row in evaluations]
