"""Figures as people read them: sizes, times, counts and rates, the same everywhere. Each takes None for "not known"."""

from __future__ import annotations

import math

KIB, MIB, GIB = 2**10, 2**20, 2**30  # bytes
NOTHING = "–"
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def counted(number: int, thing: str) -> str:
    """1 -> '1 document', 2000 -> '2,000 documents'."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def step_of(step: int, steps: int, is_estimate: bool = False) -> str:
    """59 of 198 steps -> '59/198', or '59 of about 198' where a clock ends a training; '59' while nobody knows."""
    if not steps:
        return f"{step:,}"
    return f"{step:,} of about {steps:,}" if is_estimate else f"{step:,}/{steps:,}"


def byte_size(value: float | None) -> str:
    """1536 -> '1.5 KiB'."""
    if value is None:
        return NOTHING
    for size, unit in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(value) >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:,.0f} B"


def duration(seconds: float | None) -> str:
    """0.0123 -> '12 ms', 8.42 -> '8.4 s', 200 -> '3 min 20 s', 21900 -> '6 h 05 min'."""
    if seconds is None:
        return NOTHING
    if seconds < 0:
        return "−" + duration(-seconds)
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    return f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60:02d} min"


def chosen_duration(seconds: float) -> str:
    """600 -> '10 min', 5400 -> '1 h 30 min': a time that a person chose, such as a budget."""
    return duration(seconds).removesuffix(" 00 s").removesuffix(" 00 min")


def milliseconds(seconds: float | None) -> str:
    """0.00321 -> '3.21 ms', 1.5 -> '1.5 s': short times that are compared."""
    if seconds is None:
        return NOTHING
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def clock(seconds: float | None) -> str:
    """75 -> '1:15', 7384 -> '2:03:04': a time that runs."""
    if seconds is None:
        return NOTHING
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def number(value: object, digits: int | None = None) -> str:
    """Whole numbers with separators, others with `digits` decimals or four significant figures; the rest as it is."""
    if value is None:
        return NOTHING
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return str(value)
    if digits is not None:
        return f"{value:,.{digits}f}"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def count(value: float | None) -> str:
    """803000 -> '0.80 M', 124e6 -> '124.0 M': parameters and tokens at a glance."""
    if value is None:
        return NOTHING
    for size, unit, least in ((1e9, "B", 1e9), (1e6, "M", 1e5)):
        if abs(value) >= least:
            return f"{value / size:.2f} {unit}" if abs(value) < 10 * size else f"{value / size:,.1f} {unit}"
    return f"{value:,.0f}"


def si(value: float | None, unit: str = "") -> str:
    """1234567 -> '1.23 M'; with a unit, '1.23 MFLOP/s'."""
    if value is None:
        return NOTHING
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}".rstrip()
    return f"{value:.3g} {unit}".rstrip()


def flops(value: float | None) -> str:
    """1.2e11 -> '120 GFLOP/s'."""
    return si(value, "FLOP/s")


def percent(value: float | None, digits: int | None = None) -> str:
    """0.163 -> '16 %'; without `digits`, with a decimal below 10 %."""
    if value is None:
        return NOTHING
    if digits is None:
        digits = 0 if abs(value) >= 0.1 else 1
    return f"{100 * value:.{digits}f} %"
