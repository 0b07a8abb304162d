"""Which of the compressed models to take, drawn from the table by rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nanogpt.results.compression import CompressedModel
from nanogpt.results.quality import Estimate
from nanogpt.units import byte_size

TOLERANCE = 0.01  # of the original's bits per byte: what a smaller or faster model may cost
PERCENT = f"{100 * TOLERANCE:g} %"
PRECISIONS = {"int8": "q8_0", "int4": "q4_0"}  # of nanogpt export, for those whose folder holds float32


@dataclass(frozen=True)
class Recommendation:
    """Names of rows, None for no clear winner; `lines` say which, and why."""

    smallest: str | None
    fastest: str | None
    lines: list[str]


def recommend(rows: Sequence[CompressedModel]) -> Recommendation:
    """From the rows of a table, the original first.

    A model is good enough when the whole interval of its difference lies below TOLERANCE. Of those, the smallest is
    recommended, and the fastest where its speed's interval overlaps no other's. A model of which the test text is too
    short to say whether it is good enough, and which would have been the smallest, is named.
    """
    original, others = rows[0], rows[1:]
    limit = TOLERANCE * original.bits_per_byte.value
    good = [row for row in others if row.difference.high <= limit]
    undecided = [row for row in others if row.difference.low <= limit < row.difference.high]
    smallest = min((row for row in good if row.bytes < original.bytes), key=lambda row: row.bytes, default=None)
    lines = [_of_smallest(smallest, original)]
    least = smallest.bytes if smallest else original.bytes
    lines += [
        f"Undecided: {row.name} is smaller; its cost, {_range(row.difference)} bits per byte, may be below or above "
        f"{PERCENT} on so short a test text."
        for row in undecided
        if row.bytes < least
    ]
    fastest, line = _fastest([original, *good])
    return Recommendation(smallest.name if smallest else None, fastest, [*lines, line])


def _of_smallest(smallest: CompressedModel | None, original: CompressedModel) -> str:
    if smallest is None:
        return f"For size: none. No smaller model is within {PERCENT} of the original's bits per byte."
    precision = PRECISIONS.get(smallest.name)
    how = f" `nanogpt export MODEL --to gguf --precision {precision} --out FOLDER` writes it." if precision else ""
    return (
        f"For size: {smallest.name}. The smallest within {PERCENT} of the original's bits per byte: "
        f"{byte_size(smallest.bytes)} instead of {byte_size(original.bytes)}, {_range(smallest.difference)} bits per "
        f"byte.{how}"
    )


def _fastest(good: Sequence[CompressedModel]) -> tuple[str | None, str]:
    """Of models whose speeds were measured by themselves, the original among them."""
    measured = sorted(
        (row for row in good if row.speed_of == row.name), key=lambda row: row.tokens_per_second.value, reverse=True
    )
    first = measured[0]
    others = [row for row in measured[1:] if row.tokens_per_second.overlaps(first.tokens_per_second)]
    if others:
        names = " and ".join([first.name, *(row.name for row in others)])
        return None, f"For speed: no clear winner. The ranges of {names} overlap."
    if first is good[0]:
        return None, f"For speed: none. No model within {PERCENT} of the original is faster than it."
    times = first.tokens_per_second.value / good[0].tokens_per_second.value
    return first.name, (
        f"For speed: {first.name}. The fastest within {PERCENT} of the original's bits per byte: "
        f"{times:.2f} times its tokens per second, {_range(first.difference)} bits per byte."
    )


def _range(estimate: Estimate) -> str:
    return f"{estimate.value:+.4f} ({estimate.low:+.4f} to {estimate.high:+.4f})"
