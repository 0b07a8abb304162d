"""How far a model's probabilities, its context and its originality go, and what size buys."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from nanogpt.plots.style import (
    BLUE,
    LINES,
    SOFT,
    VERMILION,
    Line,
    level_line,
    say_empty,
    set_title,
    write_figure,
)
from nanogpt.results.quality import Estimate, ModelScores, ScoreComparison, WritingQuality
from nanogpt.units import count

MARKERS = ("o", "s", "^", "D", "v", "P")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++")
FEWEST = 0.002  # share of the predictions that a bin needs to be drawn


def calibration_plot(models: Sequence[ModelScores], path: Path) -> Path:
    """How often the most probable token is right, over its probability; below, how many predictions there are."""

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        set_title(above, "Calibration: can the probabilities be believed?", "", "how often it is right")
        above.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (2, 2)))
        above.annotate("as sure as right", (0.72, 0.74), color=SOFT, fontsize=8.5, ha="right")
        width = 0.09 / max(1, len(models))
        for place, (model, line, marker) in enumerate(zip(models, cycle(LINES), cycle(MARKERS), strict=False)):
            shown = [row for row in model.calibration if row.share >= FEWEST]
            _with_intervals(
                above,
                [row.confidence for row in shown],
                [row.accuracy for row in shown],
                line,
                marker,
                f"{model.model} (off by {100 * model.calibration_error:.1f} points)",
            )
            offset = (place - (len(models) - 1) / 2) * width
            middles = [0.1 * int(min(row.confidence, 0.999) * 10) + 0.05 + offset for row in model.calibration]
            shares = [row.share for row in model.calibration]
            hatch = HATCHES[place % len(HATCHES)]
            below.bar(middles, shares, width=width, color=line[0], edgecolor="white", linewidth=0.5, hatch=hatch)
        above.set_xlim(0, 1)
        above.set_ylim(0, 1)
        above.legend(loc="upper left")
        above.yaxis.set_major_formatter(PercentFormatter(1))
        set_title(below, "", "probability of the most probable token", "predictions")
        below.xaxis.set_major_formatter(PercentFormatter(1))
        below.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    return write_figure(draw, path, height=4.6)


def position_plot(models: Sequence[ModelScores], path: Path) -> Path:
    """Loss over the place in the window: what context is worth."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        set_title(axes, "What context is worth", "tokens of context", "loss (nats a token)")
        placed = [model for model in models if model.by_position]
        if not placed:
            return say_empty(axes, "too few windows in this text")
        axes.set_xscale("log", base=2)
        for model, line, marker in zip(placed, cycle(LINES), cycle(MARKERS), strict=False):
            middles = [(row.first + row.last) / 2 + 1 for row in model.by_position]
            _with_intervals(axes, middles, [row.loss for row in model.by_position], line, marker, model.model)
        largest = max(row.last + 1 for model in placed for row in model.by_position)
        _powers_of_two(axes, largest)
        axes.legend(loc="upper right")

    return write_figure(draw, path, height=3.3)


def size_plot(comparison: ScoreComparison, path: Path) -> Path:
    """Bits per byte over parameters, with intervals; simple models as level lines."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        set_title(axes, "What size buys", "parameters", f"bits per byte, {comparison.split}")
        models = sorted(comparison.models, key=lambda model: model.parameters)
        sizes = [float(model.parameters) for model in models]
        _with_intervals(axes, sizes, [model.bits_per_byte for model in models], (BLUE, "none"), "o", "")
        for model, size in zip(models, sizes, strict=True):
            axes.annotate(
                f"{model.model}\nperplexity {model.perplexity.value:.2f} ({model.tokenizer})",
                (size, model.bits_per_byte.value),
                xytext=(8, 4),
                textcoords="offset points",
                fontsize=8.5,
                parse_math=False,
            )
        axes.set_xscale("log")
        axes.set_xlim(min(sizes) / 1.6, max(sizes) * 3)
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(round(value))))
        axes.margins(y=0.2)
        for simple in comparison.baselines:
            level_line(axes, simple.name, simple.bits_per_byte.value)

    return write_figure(draw, path, height=3.4)


def novelty_plot(found: WritingQuality, path: Path) -> Path:
    """The share of spans that the training text holds, by their length: samples next to held-out text."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        set_title(axes, "How much stands in the training text", "length of a span (characters)", "share of all spans")
        axes.set_xscale("log", base=2)
        rows = [
            (f"samples of {found.model}", found.samples, BLUE, "-", "o"),
            ("held-out text", found.held_out, VERMILION, "--", "s"),
        ]
        for name, figures, color, dash, marker in rows:
            lengths, shares = [row.characters for row in figures.seen], [row.share for row in figures.seen]
            label = f"{name}: the longest has {figures.longest_copy}"
            axes.plot(lengths, shares, color=color, linestyle=dash, marker=marker, markersize=5, label=label)
        axes.set_xticks([row.characters for row in found.held_out.seen])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right")

    return write_figure(draw, path, height=3.1)


def _with_intervals(
    axes: Axes, xs: Sequence[float], estimates: Sequence[Estimate], line: Line, marker: str, label: str
) -> None:
    values = [estimate.value for estimate in estimates]
    reach = [
        [max(0.0, estimate.value - estimate.low) for estimate in estimates],
        [max(0.0, estimate.high - estimate.value) for estimate in estimates],
    ]
    color, dash = line
    axes.errorbar(
        xs, values, yerr=reach, color=color, linestyle=dash, marker=marker, markersize=4.5, capsize=2.5, elinewidth=1,
        label=label or None,
    )  # fmt: skip


def _powers_of_two(axes: Axes, largest: int) -> None:
    axes.xaxis.set_major_locator(FixedLocator([2**power for power in range(largest.bit_length())]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
