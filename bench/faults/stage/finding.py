"""What is found when a fault has been inflicted, and the two ways in which there is nothing to find."""

from __future__ import annotations

from dataclasses import dataclass


class NotSurvived(Exception):
    """What a run should have withstood and did not, in words for the person who looks for the cause."""


class NotPossible(Exception):
    """What cannot be inflicted here: no root, no file system to mount, no copy of a text. It is reported, without a
    row."""


@dataclass(frozen=True)
class Finding:
    """What was seen when a fault was inflicted.

    `noticed`: the run's own words about the fault. `remedy`: what it did about it, from the row of its report; where it
    has none, for nothing was broken or a person is asked, in the kind's words, for what the kind has checked. `result`:
    what a kind adds before the verdict's words ("same bytes", "loss curve within 3e-07"). `times`: how many faults
    there were. `seconds_lost` and `steps_lost`: more than the undisturbed run took; None lets the scene measure them.
    """

    noticed: str
    remedy: str
    result: str = ""
    seconds_lost: float | None = None
    steps_lost: int | None = None
    times: int = 1
