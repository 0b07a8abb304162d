"""What a series of the campaign aims at beyond being survived, and whether its figures reach it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.faults.series.overhead import LIMIT

Figures = dict[str, Any]  # of a series, by the words of docs/faults.md


@dataclass(frozen=True)
class Aim:
    """A figure of a series that is to be less than `limit`."""

    words: str
    figure: str
    limit: float


AIMS = {
    "kills": Aim("trains again within 15 s of each restart", "seconds from the restart to training again, worst", 15.0),
    "overhead": Aim(f"orchestration is under {100 * LIMIT:g} % of the run", "orchestration, % of the run", 100 * LIMIT),
}


def with_aim(series: str, figures: Figures) -> Figures:
    """The figures of a series that was survived, and in words whether its aim was reached: True, False, or "not
    measured" where no kill hit a training."""
    aim = AIMS[series]
    measured = figures[aim.figure]
    reached = {aim.words: "not measured" if measured is None else measured < aim.limit}
    return {"survived": True, **reached, **figures, **reached}


def lines(series: dict[str, Figures]) -> list[str]:
    """A line for the aim of each of the measured series that was survived."""
    marks = {True: "aim reached", False: "AIM MISSED"}
    aims = [(AIMS[name], figures) for name, figures in series.items() if AIMS[name].words in figures]
    return [
        f"{marks.get(figures[aim.words], 'aim not measured')}: {aim.words} ({aim.figure}: {figures[aim.figure]})"
        for aim, figures in aims
    ]


def missed(series: dict[str, Figures]) -> list[str]:
    """The aims that were not reached, in words."""
    return [AIMS[name].words for name, figures in series.items() if figures.get(AIMS[name].words) is False]
