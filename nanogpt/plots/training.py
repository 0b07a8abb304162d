"""What a training did, drawn from its metrics files: loss, learning rate, gradient norm, speed, memory."""

from __future__ import annotations

import bisect
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from nanogpt.plots.style import (
    BLUE,
    GREEN,
    INK,
    SHADE,
    SKY,
    VERMILION,
    Row,
    column,
    give_room,
    say_empty,
    set_title,
    smoothed,
    thinned,
    time_unit,
    write_figure,
)
from nanogpt.training.record.metrics import as_event, read_metrics, read_rows
from nanogpt.units import GIB

EXPECTED = {"started", "finished", "cool-down", "parity", "initial weights", "extended", "batch"}  # of every training
EVENT_SIGNS = "XDvs^P*o"


def loss_plot(model_folder: Path, path: Path) -> Path:
    """Loss over steps: training, validation, the best evaluation, the cool-down shaded. Takes 0.07 s (margins to be
    found: 0.13), because it is drawn again while the model trains."""
    train, evaluations = read_metrics(model_folder)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        set_title(axes, f"Loss of {model_folder.name}", "step", "cross-entropy (nats per token)")
        if not train and not evaluations:
            return say_empty(axes, "no metrics yet")
        steps, losses = column(train, "step", "loss")
        axes.plot(*thinned(steps, losses), color=SKY, linewidth=0.9, alpha=0.75, label="train, as logged")
        smooth = smoothed(losses)
        axes.plot(*thinned(steps, smooth), color=BLUE, linestyle="--", label="train, smoothed")
        steps, values = column(evaluations, "step", "val_loss")
        axes.plot(steps, values, color=VERMILION, marker="o", markersize=3.5, label="validation")
        averaged_at, averaged = column(evaluations, "step", "average_val_loss")
        if averaged:
            axes.plot(averaged_at, averaged, color=GREEN, linestyle="-.", label="validation, averaged weights")
        if values:
            _mark_best(axes, [*steps, *averaged_at], [*values, *averaged])
        _shade_cool_down(axes, train)
        give_room(axes, smooth, [*values, *averaged])
        axes.legend(loc="upper right", frameon=True, facecolor="white", edgecolor="none", framealpha=1)

    return write_figure(draw, path, height=3.5, margins=(0.7, 0.52, 0.1, 0.38))


def learning_rate_plot(model_folder: Path, path: Path) -> Path:
    """Learning rate and, under it, gradient norm over steps."""
    train, _ = read_metrics(model_folder)

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, sharex=True)
        set_title(above, f"Learning rate and gradient norm of {model_folder.name}", "", "learning rate")
        set_title(below, "", "step", "gradient norm")
        if not train:
            return say_empty(above, "no metrics yet")
        above.plot(*thinned(*column(train, "step", "learning_rate")), color=BLUE)
        above.set_ylim(bottom=0)
        steps, norms = column(train, "step", "grad_norm")
        below.plot(*thinned(steps, norms), color=SKY, linewidth=0.9)
        below.plot(*thinned(steps, smoothed(norms)), color=BLUE)
        if norms and min(norms) > 0 and max(norms) > 20 * sorted(norms)[len(norms) // 2]:
            below.set_yscale("log")
        for axes in (above, below):
            _shade_cool_down(axes, train)

    return write_figure(draw, path, height=4.2)


def speed_plot(model_folder: Path, path: Path) -> Path:
    """Tokens a second and memory over training time, with what happened on the way: kills, faults, remedies."""
    train, _ = read_metrics(model_folder)
    happened = _happened(model_folder, train)

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, sharex=True)
        set_title(above, f"Speed and memory of {model_folder.name}", "", "tokens per second")
        scale, unit = time_unit(max(column(train, "step", "seconds")[1], default=0))
        set_title(below, "", f"training time ({unit})", "memory (GiB)")
        if not train:
            return say_empty(above, "no metrics yet")
        seconds, speeds = column(train, "seconds", "tokens_per_second")
        times = [second / scale for second in seconds]
        above.plot(*thinned(times, speeds), color=SKY, linewidth=0.9)
        above.plot(*thinned(times, smoothed(speeds)), color=BLUE)
        above.set_ylim(0, 1.15 * max(speeds, default=1))
        above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        seconds, memory = column(train, "seconds", "memory_bytes")
        times = [second / scale for second in seconds]
        below.plot(*thinned(times, [value / GIB for value in memory]), color=GREEN)
        below.set_ylim(0, 1.15 * max(memory, default=GIB) / GIB)
        for label, (moments, sign) in happened.items():
            for axes in (above, below):
                for moment in moments:
                    axes.axvline(moment / scale, color=INK, linewidth=0.9, linestyle=(0, (3, 2)), zorder=4)
            heights = [0.12 * above.get_ylim()[1]] * len(moments)
            places = [moment / scale for moment in moments]
            above.plot(places, heights, sign, color=INK, markeredgecolor="white", markersize=9, label=label, zorder=5)
        if happened:
            figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=4)

    return write_figure(draw, path, height=4.2 if not happened else 4.6)


def _happened(model_folder: Path, train: list[Row]) -> dict[str, tuple[list[float], str]]:
    """Training seconds at which something went otherwise, by what it was, with a sign for each."""
    steps, seconds = column(train, "step", "seconds")
    moments: dict[str, list[float]] = {}
    for row in read_rows(model_folder / "events.jsonl"):
        event = as_event(row)
        if event is not None and event.event not in EXPECTED and steps:
            place = min(bisect.bisect_left(steps, event.step), len(steps) - 1)
            moments.setdefault(event.event.replace("_", " "), []).append(seconds[place])
    shown = list(moments.items())[: len(EVENT_SIGNS)]
    return {name: (found, sign) for (name, found), sign in zip(shown, EVENT_SIGNS, strict=False)}


def _mark_best(axes: Axes, steps: list[float], values: list[float]) -> None:
    best = min(range(len(values)), key=values.__getitem__)
    axes.plot(
        [steps[best]],
        [values[best]],
        marker="*",
        markersize=13,
        color=INK,
        linestyle="none",
        label=f"best validation: {values[best]:.4f} at step {steps[best]:,.0f}",
        zorder=5,
    )


def _shade_cool_down(axes: Axes, train: list[Row]) -> None:
    """Shade from the last step at the peak rate on, where the rate had a plateau (warm-up, stable, decay)."""
    steps, rates = column(train, "step", "learning_rate")
    if not steps or rates[-1] > 0.97 * max(rates):
        return
    plateau = [step for step, rate in zip(steps, rates, strict=True) if rate >= 0.999 * max(rates)]
    # a cosine is within 0.1 % of its peak for 2 % of its steps only
    if plateau[-1] - plateau[0] > 0.05 * steps[-1]:
        axes.axvspan(plateau[-1], steps[-1], color=SHADE, zorder=0, label="cool-down")
