"""Curves from metrics rows, without matplotlib: two columns, smoothed, and as many points as a screen can show."""

from __future__ import annotations

import math
import sys
from typing import Any, TypeGuard

MOST_POINTS = 500  # of a line: more than its pixels can show makes the file big and nothing clearer

Row = dict[str, Any]


def column(rows: list[Row], x: str, y: str) -> tuple[list[float], list[float]]:
    """The two named columns where both are finite numbers."""
    pairs = [(row.get(x), row.get(y)) for row in rows]
    finite = [(a, b) for a, b in pairs if is_finite(a) and is_finite(b)]
    return [a for a, _ in finite], [b for _, b in finite]


def is_finite(value: object) -> TypeGuard[float]:
    """Whether `value` is a number that a float can hold: neither NaN nor infinity, nor an integer of 400 digits."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def smoothed(values: list[float]) -> list[float]:
    """Mean of a centred window of a 25th of the points; at the end, a line through the last window.

    The last point alone would look like a sudden rise or fall.
    """
    reach = max(1, len(values) // 50)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    smooth = []
    for place in range(len(values)):
        near = min(
            reach, place, len(values) - 1 - place
        )  # at the steep beginning the window shrinks, and stays centred
        smooth.append((sums[place + near + 1] - sums[place - near]) / (2 * near + 1))
    last = values[-(2 * reach + 1) :]
    return smooth[:-reach] + _line_through(last)[-reach:] if len(last) > reach else smooth


def _line_through(values: list[float]) -> list[float]:
    """The straight line of least squares, kept within the values."""
    places = [place - (len(values) - 1) / 2 for place in range(len(values))]
    mean = sum(values) / len(values)
    squares = sum(place * place for place in places)
    slope = sum(place * value for place, value in zip(places, values, strict=True)) / squares if squares else 0.0
    return [min(max(mean + slope * place, min(values)), max(values)) for place in places]


def thinned(xs: list[float], ys: list[float]) -> tuple[list[float], list[float]]:
    """At most about MOST_POINTS of the points, the last among them."""
    stride = max(1, math.ceil(len(xs) / MOST_POINTS))
    keep = sorted({*range(0, len(xs), stride), len(xs) - 1} if xs else ())
    return [xs[i] for i in keep], [ys[i] for i in keep]
