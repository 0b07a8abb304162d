"""Experiments on a model's parts: each figure against its limit, of the part as it is and of the broken one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from nanogpt.plots.style import BLUE, GRID, INK, SOFT, VERMILION, categories, set_title, write_figure
from nanogpt.results.machine import ComponentCheck
from nanogpt.results.study import Experiment

FURTHEST = 1e4  # times the limit, or a part of it: what is further is drawn at the edge


def components_plot(experiments: Sequence[Experiment], path: Path) -> Path:
    """One row a figure: circle and cross are its share of the limit, with the part whole and with the part broken."""
    pairs = [pair for made in experiments for pair in zip(made.found, made.when_broken, strict=True)]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        set_title(axes, "Each part whole, and broken on purpose", "measured / limit (at the edges: 0, or further)", "")
        for place, (found, broken) in enumerate(pairs):
            whole_at, broken_at = _share(found), _share(broken)
            axes.plot([whole_at, broken_at], [place, place], color=GRID, linewidth=3, zorder=1)
            for check, at, color, marker in ((found, whole_at, BLUE, "o"), (broken, broken_at, VERMILION, "X")):
                axes.plot([at], [place], color=color, marker=marker, markersize=8, linestyle="none", clip_on=False)
                axes.annotate(
                    f"{check.measured:.2g}",
                    (at, place),
                    xytext=(0, 7),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=INK,
                )
        axes.plot([], [], color=BLUE, marker="o", linestyle="none", label="as it is")
        axes.plot([], [], color=VERMILION, marker="X", linestyle="none", label="broken")
        axes.axvline(1, color=SOFT, linewidth=1.2, linestyle=(0, (3, 2)))
        axes.annotate("limit", (1, -0.8), xytext=(4, 0), textcoords="offset points", fontsize=8.5, color=SOFT)
        axes.set_xscale("log")
        axes.set_xlim(0.4 / FURTHEST, 2.5 * FURTHEST)
        categories(axes, [found.name for found, _ in pairs])
        axes.set_ylim(len(pairs) - 0.5, -1.1)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=2)

    return write_figure(draw, path, height=1.5 + 0.36 * len(pairs))


def _share(check: ComponentCheck) -> float:
    """Of the limit, within the axis; a limit of zero is met or missed altogether."""
    if check.limit == 0:
        return FURTHEST if check.measured else 1 / FURTHEST
    return min(FURTHEST, max(1 / FURTHEST, check.measured / check.limit))
