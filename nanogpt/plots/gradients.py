"""How training reaches a model's weights: gradients and updates through depth and time, the residual stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nanogpt.plots.style import BLUE, LINES, SKY, SOFT, VERMILION, Line, say_empty, set_title, write_figure
from nanogpt.results.study import Flow, GradientStudy
from nanogpt.units import percent

MARKERS = "osD^v"
WORTH_KNOWING = 1e-3  # update over weight; Karpathy 2022, "Building makemore 3"


def gradients_plot(study: GradientStudy, path: Path) -> Path:
    """Gradient norm of each kind of parameters by block, mean over the steps; below, of each block by step."""
    means = [fmean(norms) for norms in zip(*(step.norms for step in study.steps), strict=True)]

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, height_ratios=(1.15, 1))
        set_title(above, f"Gradient norm in {_name(study)}", "", "gradient norm, mean over steps")
        layers = _layers(study)
        for kind, (color, dash), marker in zip(_kinds(study), LINES, MARKERS, strict=False):
            values = [
                mean
                for group, mean in zip(study.groups, means, strict=True)
                if group.kind == kind and group.layer is not None
            ]
            places = range(1, layers + 1)
            above.plot(places, _positive(values), color=color, linestyle=dash, marker=marker, markersize=4, label=kind)
        for group, mean in zip(study.groups, means, strict=True):
            if group.layer is None and mean > 0 and group.kind != "final norm":
                place = layers + 1 if group.kind == "head" else 0
                above.plot([place], [mean], marker="*", markersize=10, color=SOFT, linestyle="none")
                above.annotate(
                    group.kind,
                    (place, mean),
                    xytext=(0, 8),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8.5,
                    color=SOFT,
                )
        _log_axis(above, [mean for mean in means if mean > 0])
        above.set_xlim(-0.4, layers + 1.4)
        above.set_xticks(*_depth_ticks(layers))
        legend_below(above, columns=3)
        _draw_time(figure, below, study)

    return write_figure(draw, path, height=6.0)


def _draw_time(figure: Figure, axes: Axes, study: GradientStudy) -> None:
    """One row for each place in the depth of the model, one column a step; light is large."""
    rows = _by_depth(study)
    cells = [[value or math.nan for value in values] for values in rows.values()]
    known = [value for values in cells for value in values if value > 0]
    white = "; white: exactly zero" if any(not value for values in rows.values() for value in values) else ""
    set_title(axes, "", f"step{white}", "")
    steps = len(study.steps)
    image = axes.imshow(
        cells,
        aspect="auto",
        origin="lower",
        cmap="cividis",
        extent=(0.5, steps + 0.5, -0.5, len(rows) - 0.5),
        norm=LogNorm(min(known), max(known)) if known and min(known) < max(known) else None,
        interpolation="nearest",
    )
    axes.grid(visible=False)
    axes.set_yticks(*_thinned_names(list(rows)))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    figure.colorbar(image, ax=axes, pad=0.01, aspect=12).set_label("gradient norm")


def updates_plot(study: GradientStudy, path: Path) -> Path:
    """Update over weight by step: for each kind of parameters the middle of its blocks, and how far they spread."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        title = f"Size of the updates of {_name(study)} ({study.optimizer})"
        set_title(axes, title, "step", "norm of update / norm of weights")
        lines: Sequence[Line] = [*LINES, (SOFT, "--"), (SOFT, ":")]
        shown: list[float] = []
        outside = [group.kind for group in study.groups if group.layer is None]
        for kind, (color, dash) in zip([*_kinds(study), *outside], lines, strict=False):
            steps, lows, middles, highs = _ratios(study, kind)
            shown += [*lows, *highs]
            axes.plot(steps, middles, color=color, linestyle=dash, label=kind)
            if lows != highs:
                axes.fill_between(steps, lows, highs, color=color, alpha=0.12, linewidth=0)
        positive = [value for value in shown if value > 0]
        _log_axis(axes, [*positive, WORTH_KNOWING])
        axes.axhline(WORTH_KNOWING, color=SOFT, linewidth=1, linestyle=(0, (2, 2)))
        axes.annotate(
            "0.1 %",
            (1, WORTH_KNOWING),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            color=SOFT,
            fontsize=8.5,
        )
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        legend_below(axes, columns=4, down=0.17)

    return write_figure(draw, path, height=4.2)


def residual_plot(study: GradientStudy, path: Path) -> Path:
    """Root mean square of the residual stream after each block, and what attention and feed-forward add to it; below,
    the share of dead units."""

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, height_ratios=(2.4, 1))
        set_title(above, f"Residual stream of {_name(study)}", "", "root mean square")
        layers = len(study.after.layers)
        blocks = range(1, layers + 1)
        for flow, color, dash, marker, when in (
            (study.before, SKY, "--", "o", "before the steps"),
            (study.after, BLUE, "-", "s", "after them"),
        ):
            sizes = [flow.embedded, *(layer.stream for layer in flow.layers)]
            above.plot(
                range(layers + 1),
                sizes,
                color=color,
                linestyle=dash,
                marker=marker,
                markersize=4,
                label=f"stream, {when}",
            )
        added = study.after.layers
        above.bar(
            [block - 0.15 for block in blocks],
            [layer.attention for layer in added],
            width=0.28,
            color=VERMILION,
            label="added by attention, after",
        )
        above.bar(
            [block + 0.15 for block in blocks],
            [layer.feedforward for layer in added],
            width=0.28,
            color="#f3d38a",
            edgecolor=SOFT,
            hatch="///",
            linewidth=0.6,
            label="added by feed-forward, after",
        )
        above.set_ylim(bottom=0)
        for axes in (above, below):
            axes.set_xlim(-0.3, layers + 0.4)
            axes.set_xticks(*_thinned_names(["embedding", *map(str, blocks)]))
        legend_below(above, columns=2)
        set_title(below, "", "after block", "dead units")
        below.bar(
            [b - 0.15 for b in blocks],
            _dead(study.before),
            width=0.28,
            color="white",
            edgecolor=BLUE,
            linewidth=1,
            label="before",
        )
        below.bar([b + 0.15 for b in blocks], _dead(study.after), width=0.28, color=BLUE, label="after")
        below.set_ylim(0, max(0.05, 1.2 * max([*_dead(study.before), *_dead(study.after)])))
        below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 0)))
        if study.before.dead or study.after.dead:
            below.legend(loc="upper right", ncols=2)
        else:
            say_empty(below, "none, before or after")

    return write_figure(draw, path, height=5.2)


def _name(study: GradientStudy) -> str:
    return Path(study.model).name


def _dead(flow: Flow) -> list[float]:
    return [layer.dead / layer.units for layer in flow.layers]


def _layers(study: GradientStudy) -> int:
    return len(study.after.layers)


def _kinds(study: GradientStudy) -> list[str]:
    """Of the parameters inside the blocks; the norms, which matter least, come last."""
    found = dict.fromkeys(group.kind for group in study.groups if group.layer is not None)
    return sorted(found, key=lambda kind: kind == "norms")


def _by_depth(study: GradientStudy) -> dict[str, list[float]]:
    """{place in the depth: norm at each step}, all groups of a block together."""
    found: dict[str, list[float]] = {}
    for place, group in enumerate(study.groups):
        name = group.kind if group.layer is None else f"block {group.layer + 1}"
        before = found.get(name, [0.0] * len(study.steps))
        found[name] = [math.hypot(one, step.norms[place]) for one, step in zip(before, study.steps, strict=True)]
    return found


def _ratios(study: GradientStudy, kind: str) -> tuple[list[int], list[float], list[float], list[float]]:
    """Steps, and the smallest, middle and largest ratio of update to weight over the blocks."""
    places = [place for place, group in enumerate(study.groups) if group.kind == kind]
    by_step = {
        number: ratios
        for number, step in enumerate(study.steps, 1)
        if (ratios := [ratio for place in places if (ratio := step.ratios[place])])  # a log axis shows no zero
    }
    found = by_step.values()
    return list(by_step), list(map(min, found)), list(map(median, found)), list(map(max, found))


def legend_below(axes: Axes, columns: int, down: float = 0.12) -> None:
    """Under the axis: what is drawn keeps the whole width, on a phone too."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -down), ncols=columns)


def _positive(values: list[float]) -> list[float]:
    return [value if value > 0 else math.nan for value in values]


def _log_axis(axes: Axes, values: list[float]) -> None:
    if values:
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 1.6, max(values) * 1.6)


def _depth_ticks(layers: int) -> tuple[list[int], list[str]]:
    """The embedding, the blocks (every second, third ... where they are many), the head."""
    stride = max(1, math.ceil(layers / 12))
    blocks = list(range(1, layers + 1, stride))
    return [0, *blocks, layers + 1], ["embedding", *(f"block {b}" if layers <= 6 else str(b) for b in blocks), "head"]


def _thinned_names(names: list[str]) -> tuple[list[int], list[str]]:
    stride = max(1, math.ceil(len(names) / 14))
    places = list(range(0, len(names), stride))
    return places, [names[place] for place in places]
