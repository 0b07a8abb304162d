"""A whole run: the time of its phases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from nanogpt.plots.style import BLUE, INK, SOFT, categories, set_title, time_unit, write_behind_bar, write_figure
from nanogpt.units import duration


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
