"""Models compared with each other and with simple ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from nanogpt.plots.style import (
    BLUE,
    LINES,
    categories,
    column,
    endless,
    give_room,
    level_line,
    say_empty,
    set_title,
    time_unit,
    write_behind_bar,
    write_figure,
)
from nanogpt.training.record.metrics import read_metrics


def comparison_plot(folders: Mapping[str, Path], path: Path, baselines: Mapping[str, float] | None = None) -> Path:
    """Bits per byte on the validation split over training seconds, every model; baselines as level lines."""
    curves = {name: column(read_metrics(folder)[1], "seconds", "bits_per_byte") for name, folder in folders.items()}

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        longest = max((max(seconds, default=0) for seconds, _ in curves.values()), default=0)
        shortest = min((max(seconds) for seconds, _ in curves.values() if seconds), default=0)
        scale, unit = time_unit(longest)
        set_title(axes, "All models", f"training time ({unit})", "bits per byte, validation")
        if not longest:
            return say_empty(axes, "no evaluations yet")
        for (name, (seconds, values)), (color, dash) in zip(curves.items(), endless(LINES), strict=False):
            axes.plot(
                [s / scale for s in seconds],
                values,
                color=color,
                linestyle=dash,
                marker="o",
                markersize=3.5,
                label=name,
            )
        if longest > 12 * shortest:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        everything = [value for _, values in curves.values() for value in values]
        give_room(axes, [], everything)
        for name, value in (baselines or {}).items():
            level_line(axes, name, value)
        axes.legend(loc="upper right")

    return write_figure(draw, path, height=3.5)


def baselines_plot(baselines: Mapping[str, float], models: Mapping[str, float], path: Path) -> Path:
    """Bits per byte on the test split as bars, worst above: baselines grey, models in colour."""
    bars = sorted(
        [(value, name, False) for name, value in baselines.items()]
        + [(value, name, True) for name, value in models.items()],
        reverse=True,
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        set_title(axes, "Test split: bits per byte (shorter is better)", "", "")
        if not bars:
            return say_empty(axes, "no measurements")
        places = range(len(bars))
        axes.barh(
            places,
            [value for value, _, _ in bars],
            height=0.62,
            color=[BLUE if ours else "#c3c9d2" for _, _, ours in bars],
        )
        for place, (value, _, ours) in zip(places, bars, strict=True):
            write_behind_bar(axes, f"{value:.3f}", (value, place), fontweight="bold" if ours else "normal")
        categories(axes, [name for _, name, _ in bars])
        axes.set_xlim(0, 1.12 * bars[0][0])

    return write_figure(draw, path, height=0.8 + 0.36 * max(1, len(bars)))
