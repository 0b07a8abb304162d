"""Every figure, drawn from metrics files: one style, readable in print and by colour-blind eyes.

The ending of the path chooses the format (.svg or .png). The same numbers give the same bytes: no dates, no random
identifiers. Nothing of pyplot's global state is touched, so a figure may be drawn while training runs.
Colours: Okabe and Ito (2008), "Color Universal Design"; what colour says is said again by line, marker or label.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from nanogpt import durable
from nanogpt.results import RangeTest
from nanogpt.training.record.metrics import read_metrics

BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
INK, SOFT, GRID, SHADE = "#222222", "#6b7280", "#e5e7eb", "#e4eaf3"
LINES = [(BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (PURPLE, (0, (5, 1, 1, 1, 1, 1))), (ORANGE, ":"), (SKY, "-")]
STYLE = {
    "figure.facecolor": "white", "axes.facecolor": "white", "font.family": "DejaVu Sans", "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#9ca3af", "axes.labelcolor": INK,
    "axes.titlesize": 11.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 10,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.8, "text.color": INK,
    "xtick.color": SOFT, "ytick.color": SOFT, "legend.frameon": False, "legend.fontsize": 9.5,
    "lines.linewidth": 1.9, "svg.hashsalt": "nanogpt", "svg.fonttype": "path", "path.simplify_threshold": 0.3,
}  # fmt: skip
PART_COLORS = {  # the optimizer's parts in warm colours, the passes in blue
    "data": SOFT, "forward": SKY, "backward": BLUE, "gradient norm": "#f3d38a", "AdamW": ORANGE, "Muon": VERMILION,
    "weight average": "#8c510a", "evaluation": GREEN, "checkpoint": PURPLE,
}  # fmt: skip
LIGHT = {SKY, "#f3d38a", ORANGE, PURPLE}  # colours that dark letters are read on
MOST_POINTS = 500  # of a line: more than its pixels can show makes the file big and nothing clearer
_style_lock = threading.Lock()  # rc_context changes what is global to matplotlib

Row = dict[str, Any]


def loss_plot(model_folder: Path, path: Path) -> Path:
    """Loss over steps: training, validation, the best evaluation, the cool-down shaded. 0.1-0.2 s: it is redrawn
    while the model trains."""
    train, evaluations = read_metrics(model_folder)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _title(axes, f"Loss of {model_folder.name}", "step", "cross-entropy (nats per token)")
        if not train and not evaluations:
            return _empty(axes, "no metrics yet")
        steps, losses = _column(train, "step", "loss")
        axes.plot(*_thin(steps, losses), color=SKY, linewidth=0.9, alpha=0.75, label="train, as logged")
        smooth = _smooth(losses)
        axes.plot(*_thin(steps, smooth), color=BLUE, linestyle="--", label="train, smoothed")
        steps, values = _column(evaluations, "step", "val_loss")
        axes.plot(steps, values, color=VERMILION, marker="o", markersize=3.5, label="validation")
        averaged_at, averaged = _column(evaluations, "step", "average_val_loss")
        if averaged:
            axes.plot(averaged_at, averaged, color=GREEN, linestyle="-.", label="validation, averaged weights")
        if values:
            _mark_best(axes, [*steps, *averaged_at], [*values, *averaged])
        _shade_cool_down(axes, train)
        _room_for_the_curve(axes, smooth, [*values, *averaged])
        axes.legend(loc="upper right")

    return _write(draw, path, height=3.5)


def learning_rate_plot(model_folder: Path, path: Path) -> Path:
    """Learning rate and, under it, gradient norm over steps."""
    train, _ = read_metrics(model_folder)

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, sharex=True)
        _title(above, f"Learning rate and gradient norm of {model_folder.name}", "", "learning rate")
        _title(below, "", "step", "gradient norm")
        if not train:
            return _empty(above, "no metrics yet")
        above.plot(*_thin(*_column(train, "step", "learning_rate")), color=BLUE)
        above.set_ylim(bottom=0)
        steps, norms = _column(train, "step", "grad_norm")
        below.plot(*_thin(steps, norms), color=SKY, linewidth=0.9)
        below.plot(*_thin(steps, _smooth(norms)), color=BLUE)
        if norms and min(norms) > 0 and max(norms) > 20 * sorted(norms)[len(norms) // 2]:
            below.set_yscale("log")
        for axes in (above, below):
            _shade_cool_down(axes, train)

    return _write(draw, path, height=4.2)


def speed_plot(model_folder: Path, path: Path) -> Path:
    """Tokens a second and memory over training time."""
    train, _ = read_metrics(model_folder)

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, sharex=True)
        _title(above, f"Speed and memory of {model_folder.name}", "", "tokens per second")
        scale, unit = _time_unit(max(_column(train, "step", "seconds")[1], default=0))
        _title(below, "", f"training time ({unit})", "memory (GiB)")
        if not train:
            return _empty(above, "no metrics yet")
        seconds, speeds = _column(train, "seconds", "tokens_per_second")
        times = [second / scale for second in seconds]
        above.plot(*_thin(times, speeds), color=SKY, linewidth=0.9)
        above.plot(*_thin(times, _smooth(speeds)), color=BLUE)
        above.set_ylim(0, 1.15 * max(speeds, default=1))
        above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        seconds, memory = _column(train, "seconds", "memory_bytes")
        times = [second / scale for second in seconds]
        below.plot(*_thin(times, [value / 2**30 for value in memory]), color=GREEN)
        below.set_ylim(0, 1.15 * max(memory, default=2**30) / 2**30)

    return _write(draw, path, height=4.2)


def learning_rate_range_plot(found: RangeTest, name: str, path: Path) -> Path:
    """Loss over the factor on the peak learning rates; where it falls fastest, is lowest, and what is suggested."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _title(axes, f"Learning-rate range of {name}", "factor on all peak learning rates", "loss (nats per token)")
        axes.set_xscale("log")
        axes.plot(found.factors, found.losses, color=SKY, linewidth=0.9, alpha=0.75, label="each step")
        axes.plot(found.factors, found.smoothed, color=BLUE, label="smoothed")
        marks = [("falls fastest", found.steepest, GREEN, "v"), ("lowest", found.lowest, VERMILION, "s"),
                 ("suggested", found.suggested, INK, "*")]  # fmt: skip
        for label, factor, color, marker in marks:
            if factor is not None:
                nearest = min(range(len(found.factors)), key=lambda i: abs(math.log(found.factors[i] / factor)))
                axes.plot([factor], [found.smoothed[nearest]], marker=marker, markersize=13 if marker == "*" else 7,
                          color=color, linestyle="none", label=f"{label}: {factor:.3g}", zorder=5)  # fmt: skip
        if found.smoothed:
            low, high = min(found.smoothed), found.smoothed[0]
            axes.set_ylim(low - 0.1 * (high - low) - 0.01, high + 0.35 * (high - low) + 0.01)
        axes.legend(loc="best")

    return _write(draw, path, height=3.5)


def comparison_plot(folders: Mapping[str, Path], path: Path, baselines: Mapping[str, float] | None = None) -> Path:
    """Bits per byte on the validation split over training seconds, every model; baselines as level lines."""
    curves = {name: _column(read_metrics(folder)[1], "seconds", "bits_per_byte") for name, folder in folders.items()}

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        longest = max((max(seconds, default=0) for seconds, _ in curves.values()), default=0)
        shortest = min((max(seconds) for seconds, _ in curves.values() if seconds), default=0)
        scale, unit = _time_unit(longest)
        _title(axes, "All models", f"training time ({unit})", "bits per byte, validation")
        if not longest:
            return _empty(axes, "no evaluations yet")
        for (name, (seconds, values)), (color, dash) in zip(curves.items(), _endless(LINES), strict=False):
            axes.plot([s / scale for s in seconds], values, color=color, linestyle=dash, marker="o", markersize=3.5,
                      label=name)  # fmt: skip
        if longest > 12 * shortest:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        everything = [value for _, values in curves.values() for value in values]
        _room_for_the_curve(axes, [], everything)
        for name, value in (baselines or {}).items():
            _level(axes, name, value)
        axes.legend(loc="upper right")

    return _write(draw, path, height=3.5)


def baselines_plot(baselines: Mapping[str, float], models: Mapping[str, float], path: Path) -> Path:
    """Bits per byte on the test split as bars, worst above: baselines grey, models in colour."""
    bars = sorted([(value, name, False) for name, value in baselines.items()]
                  + [(value, name, True) for name, value in models.items()], reverse=True)  # fmt: skip

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _title(axes, "Test split: bits per byte (shorter is better)", "", "")
        if not bars:
            return _empty(axes, "no measurements")
        places = range(len(bars))
        axes.barh(places, [value for value, _, _ in bars], height=0.62,
                  color=[BLUE if ours else "#c3c9d2" for _, _, ours in bars])  # fmt: skip
        for place, (value, _, ours) in zip(places, bars, strict=True):
            axes.annotate(f"{value:.3f}", (value, place), xytext=(5, 0), textcoords="offset points", va="center",
                          fontweight="bold" if ours else "normal")  # fmt: skip
        _categories(axes, [name for _, name, _ in bars])
        axes.set_xlim(0, 1.12 * bars[0][0])

    return _write(draw, path, height=0.8 + 0.36 * max(1, len(bars)))


def phase_times_plot(phases: Sequence[tuple[str, float | None, float | None]], path: Path) -> Path:
    """Planned and actual seconds of each phase as pairs of bars; None where there was no plan or no run."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        scale, unit = _time_unit(max((max(plan or 0, actual or 0) for _, plan, actual in phases), default=0))
        _title(axes, f"Time of each phase ({unit})", "", "")
        rows = [(-0.19, 1, "#c3c9d2", "plan"), (0.19, 2, BLUE, "actual")]
        for shift, column, color, label in rows:
            values = [(phase[column] or 0) / scale for phase in phases]
            places = [place + shift for place in range(len(phases))]
            axes.barh(places, values, height=0.36, color=color, label=label)
            for place, value, phase in zip(places, values, phases, strict=True):
                text = _duration(phase[column]) if phase[column] is not None else "–" if column == 2 else ""
                axes.annotate(text, (value, place), xytext=(4, 0), textcoords="offset points", va="center",
                              fontsize=8.5, color=INK if column == 2 else SOFT)  # fmt: skip
        _categories(axes, [name for name, _, _ in phases])
        axes.margins(x=0.1)
        axes.legend(loc="best")

    return _write(draw, path, height=0.9 + 0.46 * max(1, len(phases)))


def profile_plot(name: str, profile: Mapping[str, Any], path: Path) -> Path:
    """Where the time of a training step goes: one bar of the whole, and each part's share and milliseconds.

    `profile` has the fields of nanogpt.results.Profile and its `shares`.
    """
    parts = list(profile["shares"])

    def draw(figure: Figure) -> None:
        whole, single = figure.subplots(2, gridspec_kw={"height_ratios": [1, 0.62 * len(parts)]})
        flops = f"{profile['flops_per_second'] / 1e9:,.1f} GFLOP/s, {profile['share_of_matmul']:.0%} of matrix products"
        _title(whole, f"A training step of {name}", "", "")
        whole.set_title(f"{profile['tokens_per_second']:,.0f} tokens/s, {flops}", loc="right", fontsize=9,
                        fontweight="normal", color=SOFT)  # fmt: skip
        begins = 0.0
        for part in parts:
            share = profile["shares"][part]
            whole.barh([0], [share], left=begins, color=PART_COLORS[part], edgecolor="white", linewidth=1.2)
            if share > 0.08:
                whole.annotate(f"{share:.0%}", (begins + share / 2, 0), ha="center", va="center", fontweight="bold",
                               color=INK if PART_COLORS[part] in LIGHT else "white")  # fmt: skip
            begins += share
        whole.set_xlim(0, 1)
        whole.axis("off")
        shares = [profile["shares"][part] for part in parts]
        single.barh(range(len(parts)), shares, height=0.62, color=[PART_COLORS[part] for part in parts])
        for place, part in enumerate(parts):
            text = f"{profile['shares'][part]:.1%}   {_milliseconds(profile['seconds'][part])}"
            single.annotate(text, (profile["shares"][part], place), xytext=(5, 0), textcoords="offset points",
                            va="center")  # fmt: skip
        _categories(single, parts)
        single.set_xlim(0, 1.28 * max(shares))
        single.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        told = f"{profile['parameters'] / 1e6:,.1f} M parameters, {profile['device']}, {profile['precision']}"
        single.set_xlabel(f"share of the time ({told}); evaluation and checkpoint spread over their steps", fontsize=9)

    return _write(draw, path, height=1.5 + 0.34 * len(parts))


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _write(draw: Any, path: Path, height: float, width: float = 7.6) -> Path:
    """Draw on a fresh figure of `width` x `height` inches and write it durably to `path`."""
    kind = path.suffix.lstrip(".")
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    data = io.BytesIO()
    with _style_lock, matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        figure.savefig(data, format=kind, dpi=150, metadata=metadata)
    durable.write_bytes(path, data.getvalue())
    return path


def _title(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    # parse_math off: a model named "$x$" is a name, not a formula
    axes.set_title(title, parse_math=False)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)


def _empty(axes: Axes, message: str) -> None:
    axes.text(0.5, 0.5, message, ha="center", va="center", color=SOFT, transform=axes.transAxes)


def _categories(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, color=INK, parse_math=False)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _column(rows: list[Row], x: str, y: str) -> tuple[list[float], list[float]]:
    """The two named columns where both are finite numbers."""
    pairs = [(row.get(x), row.get(y)) for row in rows]
    finite = [pair for pair in pairs if all(isinstance(v, int | float) and math.isfinite(v) for v in pair)]
    return [pair[0] for pair in finite], [pair[1] for pair in finite]


def _smooth(values: list[float]) -> list[float]:
    """Mean of a centred window of a 25th of the points."""
    reach = max(1, len(values) // 50)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    smooth = []
    for place in range(len(values)):
        near = min(reach, place, len(values) - 1 - place)  # the window shrinks at the ends, and stays centred
        smooth.append((sums[place + near + 1] - sums[place - near]) / (2 * near + 1))
    return smooth


def _thin(xs: list[float], ys: list[float]) -> tuple[list[float], list[float]]:
    """At most about MOST_POINTS of the points, the last among them."""
    stride = max(1, math.ceil(len(xs) / MOST_POINTS))
    keep = sorted({*range(0, len(xs), stride), len(xs) - 1} if xs else ())
    return [xs[i] for i in keep], [ys[i] for i in keep]


def _mark_best(axes: Axes, steps: list[float], values: list[float]) -> None:
    best = min(range(len(values)), key=values.__getitem__)
    axes.plot([steps[best]], [values[best]], marker="*", markersize=13, color=INK, linestyle="none",
              label=f"best validation: {values[best]:.4f} at step {steps[best]:,.0f}", zorder=5)  # fmt: skip


def _shade_cool_down(axes: Axes, train: list[Row]) -> None:
    """Shade from the last step at the peak rate on, where the rate had a plateau (warm-up, stable, decay)."""
    steps, rates = _column(train, "step", "learning_rate")
    if not steps or rates[-1] > 0.97 * max(rates):
        return
    plateau = [step for step, rate in zip(steps, rates, strict=True) if rate >= 0.999 * max(rates)]
    # a cosine is within 0.1 % of its peak for 2 % of its steps only
    if plateau[-1] - plateau[0] > 0.05 * steps[-1]:
        axes.axvspan(plateau[-1], steps[-1], color=SHADE, zorder=0, label="cool-down")


def _room_for_the_curve(axes: Axes, train: list[float], evaluations: list[float]) -> None:
    """Cut the first steep fall off the top, so that the later, slow gains can be seen."""
    values = train[len(train) // 33 :] + evaluations
    if values and max(values) > min(values):
        reach = max(values) - min(values)
        axes.set_ylim(min(values) - 0.06 * reach, max(values) + 0.12 * reach)


def _level(axes: Axes, name: str, value: float) -> None:
    low, high = axes.get_ylim()
    if low < value < high:
        axes.axhline(value, color=SOFT, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        axes.annotate(f"{name} {value:.3f}", (0, value), xycoords=("axes fraction", "data"), xytext=(4, 3),
                      textcoords="offset points", color=SOFT, fontsize=8.5, parse_math=False)  # fmt: skip


def _time_unit(longest: float) -> tuple[float, str]:
    if longest >= 2 * 3600:
        return 3600, "hours"
    return (60, "minutes") if longest >= 180 else (1, "seconds")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _endless(items: Sequence[Any]) -> Any:
    while True:
        yield from items
