"""What was measured before a training: learning-rate range, profile of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from nanogpt.plots.style import (
    BLUE,
    GREEN,
    INK,
    LIGHT,
    PART_COLORS,
    SKY,
    SOFT,
    VERMILION,
    categories,
    set_title,
    write_behind_bar,
    write_figure,
)
from nanogpt.results.speed import RangeTest
from nanogpt.units import count, flops, milliseconds, percent


def learning_rate_range_plot(found: RangeTest, name: str, path: Path) -> Path:
    """Loss over the factor on the peak learning rates; where it falls fastest, is lowest, and what is suggested."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        set_title(axes, f"Learning-rate range of {name}", "factor on all peak learning rates", "loss (nats per token)")
        axes.set_xscale("log")
        axes.plot(found.factors, found.losses, color=SKY, linewidth=0.9, alpha=0.75, label="each step")
        axes.plot(found.factors, found.smoothed, color=BLUE, label="smoothed")
        marks = [
            ("falls fastest", found.steepest, GREEN, "v"),
            ("lowest", found.lowest, VERMILION, "s"),
            ("suggested", found.suggested, INK, "*"),
        ]
        for label, factor, color, marker in marks:
            if factor is not None:
                nearest = min(range(len(found.factors)), key=lambda i: abs(math.log(found.factors[i] / factor)))
                axes.plot(
                    [factor],
                    [found.smoothed[nearest]],
                    marker=marker,
                    markersize=13 if marker == "*" else 7,
                    color=color,
                    linestyle="none",
                    label=f"{label}: {factor:.3g}",
                    zorder=5,
                )
        if found.smoothed:
            low, high = min(found.smoothed), found.smoothed[0]
            axes.set_ylim(low - 0.1 * (high - low) - 0.01, high + 0.35 * (high - low) + 0.01)
        axes.legend(loc="best")

    return write_figure(draw, path, height=3.5)


def profile_plot(name: str, profile: Mapping[str, Any], path: Path) -> Path:
    """Where the time of a training step goes: one bar of the whole, and each part's share and milliseconds.

    `profile` is what nanogpt.results.speed.Profile.facts() gives.
    """
    parts = list(profile["shares"])

    def draw(figure: Figure) -> None:
        whole, single = figure.subplots(2, gridspec_kw={"height_ratios": [1, 0.62 * len(parts)]})
        speed = f"{flops(profile['flops_per_second'])}, {percent(profile['share_of_matmul'], 0)} of matrix products"
        set_title(whole, f"A training step of {name}", "", "")
        whole.set_title(
            f"{profile['tokens_per_second']:,.0f} tokens/s, {speed}",
            loc="right",
            fontsize=9,
            fontweight="normal",
            color=SOFT,
        )
        begins = 0.0
        for part in parts:
            share = profile["shares"][part]
            whole.barh([0], [share], left=begins, color=PART_COLORS[part], edgecolor="white", linewidth=1.2)
            if share > 0.08:
                whole.annotate(
                    percent(share, 0),
                    (begins + share / 2, 0),
                    ha="center",
                    va="center",
                    fontweight="bold",
                    color=INK if PART_COLORS[part] in LIGHT else "white",
                )
            begins += share
        whole.set_xlim(0, 1)
        whole.axis("off")
        shares = [profile["shares"][part] for part in parts]
        single.barh(range(len(parts)), shares, height=0.62, color=[PART_COLORS[part] for part in parts])
        for place, part in enumerate(parts):
            text = f"{percent(profile['shares'][part], 1)}   {milliseconds(profile['seconds'][part])}"
            write_behind_bar(single, text, (profile["shares"][part], place))
        categories(single, parts)
        single.set_xlim(0, 1.28 * max(shares))
        single.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 0)))
        what = f"{count(profile['parameters'])} parameters, {profile['device']}, {profile['precision']}"
        single.set_xlabel(f"share of the time ({what}); evaluation and checkpoint spread over their steps", fontsize=9)

    return write_figure(draw, path, height=1.5 + 0.34 * len(parts))
