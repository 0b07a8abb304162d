"""The one style of every figure, and what figures are drawn with."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from nanogpt import durable
from nanogpt.plots.curves import MOST_POINTS as MOST_POINTS  # part of this module's interface
from nanogpt.plots.curves import Row as Row
from nanogpt.plots.curves import column as column
from nanogpt.plots.curves import smoothed as smoothed
from nanogpt.plots.curves import thinned as thinned
from nanogpt.printable import printable

WIDTH = 7.6  # inches, of every figure
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
INK, SOFT, GRID, SHADE = "#222222", "#6b7280", "#e5e7eb", "#e4eaf3"
Line = tuple[str, Any]  # a colour and a dash, by matplotlib's words or lengths
Margins = tuple[float, float, float, float]  # left, bottom, right, top, in inches
LINES: list[Line] = [
    (BLUE, "-"),
    (VERMILION, "--"),
    (GREEN, "-."),
    (PURPLE, (0, (5, 1, 1, 1, 1, 1))),
    (ORANGE, ":"),
    (SKY, "-"),
]
STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.9,
    "svg.hashsalt": "nanogpt",
    "svg.fonttype": "path",
    "path.simplify_threshold": 0.3,
}
PART_COLORS = {  # the optimizer's parts in warm colours, the passes in blue
    "data": SOFT,
    "forward": SKY,
    "backward": BLUE,
    "gradient norm": "#f3d38a",
    "AdamW": ORANGE,
    "Muon": VERMILION,
    "weight average": "#8c510a",
    "evaluation": GREEN,
    "checkpoint": PURPLE,
}
LIGHT = {SKY, "#f3d38a", ORANGE, PURPLE}  # colours that dark letters are read on
_style_lock = threading.Lock()  # rc_context changes what is global to matplotlib


def write_figure(draw: Callable[[Figure], None], path: Path, height: float, margins: Margins | None = None) -> Path:
    """Draw on a fresh figure of WIDTH x `height` inches and write it durably to `path`.

    `margins` are given for what is drawn often: to find them, everything is drawn twice.
    """
    kind = path.suffix.lstrip(".")
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    data = io.BytesIO()
    with _style_lock, matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout=None if margins else "constrained")
        if margins:
            left, bottom, right, top = (inches / (WIDTH, height)[place % 2] for place, inches in enumerate(margins))
            figure.subplots_adjust(left, bottom, 1 - right, 1 - top)
        draw(figure)
        _write_names_as_they_are(figure)
        figure.savefig(data, format=kind, dpi=150, metadata=metadata)
    durable.write_bytes(path, data.getvalue())
    return path


def _write_names_as_they_are(figure: Figure) -> None:
    """Models have the names that persons gave their folders: in a legend none is a formula, as matplotlib's own ticks
    are, and what no font can draw is written as an escape."""
    for legend in figure.findobj(Legend):
        for text in legend.get_texts():
            text.set_parse_math(False)
    for text in figure.findobj(Text):
        text.set_text(printable(text.get_text()))


def set_title(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    # parse_math off: a model named "$x$" is a name, not a formula
    axes.set_title(title, parse_math=False)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)


def write_behind_bar(axes: Axes, text: str, end: tuple[float, float], **style: Any) -> None:
    """`text` behind the end of a bar."""
    axes.annotate(text, end, xytext=(5, 0), textcoords="offset points", va="center", **style)


def say_empty(axes: Axes, message: str) -> None:
    axes.text(0.5, 0.5, message, ha="center", va="center", color=SOFT, transform=axes.transAxes)


def categories(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [printable(name) for name in names], color=INK, parse_math=False)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def level_line(axes: Axes, name: str, value: float) -> None:
    low, high = axes.get_ylim()
    if low < value < high:
        axes.axhline(value, color=SOFT, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        axes.annotate(
            f"{name} {value:.3f}",
            (0, value),
            xycoords=("axes fraction", "data"),
            xytext=(4, 3),
            textcoords="offset points",
            color=SOFT,
            fontsize=8.5,
            parse_math=False,
        )


def time_unit(longest: float) -> tuple[float, str]:
    if longest >= 2 * 3600:
        return 3600, "hours"
    return (60, "minutes") if longest >= 180 else (1, "seconds")


def give_room(axes: Axes, train: list[float], evaluations: list[float]) -> None:
    """Cut the first steep fall off the top, so that the later, slow gains can be seen."""
    values = train[len(train) // 33 :] + evaluations
    if values and max(values) > min(values):
        reach = max(values) - min(values)
        axes.set_ylim(min(values) - 0.06 * reach, max(values) + 0.12 * reach)
