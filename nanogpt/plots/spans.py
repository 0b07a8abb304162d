"""What a time line is drawn from; nothing here needs matplotlib, so that a report can make it without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["done", "failed", "cut short"]


@dataclass(frozen=True)
class Span:
    """Work in a lane, in seconds since the run began."""

    lane: str
    begin: float
    end: float
    state: State


@dataclass(frozen=True)
class Mark:
    """Something that happened: a kill (lane ""), or a remedy in a lane, named in the legend."""

    lane: str
    time: float
    label: str


@dataclass(frozen=True)
class Break:
    """A time in which nothing ran: between two sessions, or while the machine slept."""

    begin: float
    end: float
    label: str
