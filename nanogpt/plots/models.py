"""Models compared with each other and with simple ones."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nanogpt.plots.style import (
    BLUE,
    LINES,
    SOFT,
    Row,
    categories,
    column,
    give_room,
    say_empty,
    set_title,
    time_unit,
    write_behind_bar,
    write_figure,
)
from nanogpt.training.record.metrics import evaluations_with_tokens, read_metrics
from nanogpt.units import si


def comparison_plot(
    folders: Mapping[str, Path],
    path: Path,
    baselines: Mapping[str, float],
    flops_per_token: Mapping[str, float] | None = None,
) -> Path:
    """Bits per byte on the validation split of every model over tokens, training time and computation; baselines as
    level lines. `flops_per_token`: of a training step, by model; without them the last panel is left out."""
    curves = {name: _evaluations(folder, (flops_per_token or {}).get(name)) for name, folder in folders.items()}
    panels = ["tokens", "seconds"] + (["flop"] if flops_per_token else [])

    def draw(figure: Figure) -> None:
        row = figure.subplots(1, len(panels), sharey=True)
        longest = max(
            (max(column(rows, "seconds", "bits_per_byte")[0], default=0) for rows in curves.values()), default=0
        )
        scale, unit = time_unit(longest)
        labels = {"tokens": "tokens", "seconds": f"training time ({unit})", "flop": "computation (FLOP)"}
        set_title(row[0], "All models", labels["tokens"], "bits per byte, validation")
        if not longest:
            return say_empty(row[0], "no evaluations yet")
        everything = [value for rows in curves.values() for value in column(rows, "seconds", "bits_per_byte")[1]]
        give_room(row[0], [], everything)
        for axes, panel in zip(row, panels, strict=True):
            axes.set_xlabel(labels[panel])
            _draw_curves(axes, curves, panel, scale if panel == "seconds" else 1.0)
            low, high = axes.get_ylim()
            for name, value in baselines.items():
                if low < value < high:
                    axes.axhline(value, color=SOFT, linewidth=1.1, linestyle=(0, (2, 2)), label=f"{name} {value:.3f}")
        figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)

    return write_figure(draw, path, height=3.7)


def _evaluations(folder: Path, flops: float | None) -> list[Row]:
    rows = evaluations_with_tokens(*read_metrics(folder))
    if flops is None:
        return rows
    return [{**row, "flop": flops * row["tokens"]} if row.get("tokens") else row for row in rows]


def _draw_curves(axes: Axes, curves: Mapping[str, list[Row]], x: str, scale: float) -> None:
    """Bits per byte of every model over `x`; on a logarithmic axis where one came much further than another."""
    ends = []
    for (name, rows), (color, dash) in zip(curves.items(), cycle(LINES), strict=False):
        places, values = column(rows, x, "bits_per_byte")
        ends += places[-1:]
        axes.plot(
            [place / scale for place in places], values, color=color, linestyle=dash, marker="o", markersize=3.5,
            label=name,
        )  # fmt: skip
    if ends and max(ends) > 12 * min(ends):
        axes.set_xscale("log")
    if x == "seconds":
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value) if value > 0 else "0"))
        if axes.get_xscale() == "linear":
            axes.xaxis.set_major_locator(MaxNLocator(3))


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
