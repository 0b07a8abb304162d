"""Trainings and the law through them: loss over tokens for each size, over size for each number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from nanogpt.plots.style import INK, LINES, SOFT, set_title, write_figure
from nanogpt.results.study import ScalingLaw, ScalingPoint, ScalingStudy
from nanogpt.units import count

MARKERS = "osD^vP"
ALIKE = 1.02  # times: what is nearer is drawn as one
Floats = npt.NDArray[np.float64]


def scaling_plot(study: ScalingStudy, path: Path) -> Path:
    """The runs, the law, its 95 % band, and the predictions as stars."""
    over_size = study.form == "size"

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        x_label = "parameters" if over_size else "tokens seen"
        set_title(axes, f"Loss by {study.form}: {len(study.points)} trainings", x_label, "loss (nats per token)")
        axes.set_xscale("log")
        axes.set_yscale("log")
        groups = _grouped(study.points, over_size)
        furthest = max((_x(p.parameters, p.tokens, over_size) for p in study.predictions), default=0)
        for (fixed, points), (color, dash), marker in zip(groups, cycle(LINES), MARKERS * len(groups), strict=False):
            at = [_x(point.parameters, point.tokens, over_size) for point in points]
            line = np.geomspace(min(at) / 1.3, max(furthest, max(at)) * 1.15, 60)
            axes.plot(line, _curve(study.law, line, fixed, over_size), color=color, linestyle=dash, linewidth=1.4)
            low, high = np.percentile([_curve(law, line, fixed, over_size) for law in study.draws], (2.5, 97.5), axis=0)
            axes.fill_between(line, low, high, color=color, alpha=0.1, linewidth=0)
            name = f"{count(fixed)} {'tokens' if over_size else 'parameters'}"
            losses = [point.loss for point in points]
            axes.plot(at, losses, color=color, marker=marker, markersize=7, linestyle="none", label=name)
        for place, prediction in enumerate(study.predictions):
            at_x, loss = _x(prediction.parameters, prediction.tokens, over_size), prediction.loss
            bars = [[loss.value - loss.low], [loss.high - loss.value]]
            label = "predicted: ten times the time" if place == 0 else None
            axes.errorbar([at_x], [loss.value], yerr=bars, color=INK, marker="*", markersize=11, linestyle="none",
                          capsize=3, linewidth=1, label=label)  # fmt: skip
        if study.law.floor > 0.5 * min(point.loss for point in study.points):
            axes.axhline(
                study.law.floor, color=SOFT, linewidth=1, linestyle=(0, (2, 2)), label="what no model can save"
            )
        _plain_ticks(axes)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)

    return write_figure(draw, path, height=4.6)


def _plain_ticks(axes: Axes) -> None:
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high and tick > 0])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))


def _x(parameters: int, tokens: int, over_size: bool) -> int:
    return parameters if over_size else tokens


def _grouped(points: Sequence[ScalingPoint], over_size: bool) -> list[tuple[int, list[ScalingPoint]]]:
    """The points of about one size (or number of tokens) together, from the smallest."""
    groups: list[tuple[int, list[ScalingPoint]]] = []
    for point in sorted(points, key=lambda point: _x(point.tokens, point.parameters, over_size)):
        fixed = _x(point.tokens, point.parameters, over_size)
        if not groups or fixed > ALIKE * groups[-1][0]:
            groups.append((fixed, []))
        groups[-1][1].append(point)
    return groups


def _curve(law: ScalingLaw, xs: Floats, fixed: int, over_size: bool) -> Floats:
    return np.array([law.loss(x, fixed) if over_size else law.loss(fixed, x) for x in xs.tolist()])
