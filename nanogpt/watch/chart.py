"""A chart of a few lines of text: curves in braille dots, evaluations as points on them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich.text import Text

from nanogpt.watch.views import Series

BRAILLE, ACROSS, DOWN = 0x2800, 2, 4  # Unicode's block; the dots of one character
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # by column and row
POINT = "●"
CURVE_STYLE, POINT_STYLE, AXIS_STYLE = "cyan", "bold yellow", "dim"
LABEL_WIDTH = 7
STEEP = 33  # the first part of so many is cut off the top, so that the later, slow gains can be seen


def loss_chart(curve: Series, points: Series, width: int, height: int) -> list[Text]:
    """`height` lines of `width` characters: the smoothed training loss as a curve, evaluations as points, over steps.
    None where there is nothing to draw yet, or no room for it."""
    xs = [*curve.steps, *points.steps]
    ys = [*curve.values[len(curve.values) // STEEP :], *points.values]
    plot_width, plot_height = width - LABEL_WIDTH - 1, height - 1
    if len(xs) < 2 or min(xs) == max(xs) or plot_width < 10 or plot_height < 2:
        return []
    low, high = min(ys), max(ys)
    if low == high:
        low, high = low - 0.5, high + 0.5
    first, last = min(xs), max(xs)

    def place(x: float, y: float, columns: int, rows: int) -> tuple[int, int]:
        across = round((x - first) / (last - first) * (columns - 1))
        down = round((high - min(y, high)) / (high - low) * (rows - 1))
        return across, down

    begins = next((place for place, value in enumerate(curve.values) if value <= high), 0)
    cells = [[0] * plot_width for _ in range(plot_height)]
    drawn = list(zip(curve.steps, curve.values, strict=True))[begins:]
    dots = [place(x, y, plot_width * ACROSS, plot_height * DOWN) for x, y in drawn]
    for across, down in _joined(dots):
        cells[down // DOWN][across // ACROSS] |= DOTS[across % ACROSS][down % DOWN]
    marks = {place(x, y, plot_width, plot_height) for x, y in zip(points.steps, points.values, strict=True)}
    labels = {0: f"{high:.3f}", plot_height - 1: f"{low:.3f}"}
    lines = [_line(row, cells[row], marks, labels.get(row, "")) for row in range(plot_height)]
    return [*lines, _axis(f"{first:,.0f}", f"step {last:,.0f}", plot_width)]


def _joined(dots: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The dots and those on the straight lines between them."""
    found = list(dots[:1])
    for (x0, y0), (x1, y1) in pairwise(dots):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        found += [
            (x0 + round((x1 - x0) * step / steps), y0 + round((y1 - y0) * step / steps)) for step in range(1, steps + 1)
        ]
    return found


def _line(row: int, cells: Sequence[int], marks: set[tuple[int, int]], label: str) -> Text:
    line = Text(f"{label:>{LABEL_WIDTH}}", AXIS_STYLE)
    line.append("┤" if label else "│", AXIS_STYLE)
    for column, cell in enumerate(cells):
        if (column, row) in marks:
            line.append(POINT, POINT_STYLE)
        else:
            line.append(chr(BRAILLE + cell) if cell else " ", CURVE_STYLE)
    return line


def _axis(left: str, right: str, width: int) -> Text:
    between = " " * max(1, width - len(left) - len(right))
    return Text(f"{'':>{LABEL_WIDTH}} {left}{between}{right}", AXIS_STYLE)
