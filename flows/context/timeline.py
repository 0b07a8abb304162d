"""When a run's sessions and steps began and ended, over kills and restarts: what its time line is drawn from."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from flows.context.budget_clock import seconds_asleep
from nanogpt import durable
from nanogpt.records import from_json

Event = Literal["session began", "session ended", "killed", "step began", "step ended"]
FIRST = "1"  # session of a run


@dataclass(frozen=True)
class Moment:
    """`time` is in seconds since the epoch. `name`: of the step, or the number of the session."""

    time: float
    event: Event
    name: str = ""
    outcome: str = ""


class Timeline:
    """Moments of one run, a line of JSON each, appended by any thread of any session."""

    def __init__(self, file: Path):
        self._file = file
        self._lock = threading.Lock()
        self._epoch = time.time() - _since_boot()  # by which a clock that is set meanwhile moves no later moment

    def note(self, event: Event, name: str = "", outcome: str = "", at: float | None = None) -> None:
        """Append a moment, now or `at` a time. A disk that takes no more costs the line, not the run."""
        moment = Moment(round(self._epoch + _since_boot() if at is None else at, 3), event, name, outcome)
        with self._lock, suppress(OSError):
            durable.make_parents(self._file)
            with open(durable.open_to_append(self._file), "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(moment)) + "\n")

    def moments(self) -> list[Moment]:
        """Those since the run began, in order; a line that a kill cut short, or that rotted, is left out."""
        with suppress(OSError):
            found = [moment for line in durable.read_bytes(self._file).splitlines() if (moment := _moment(line))]
            starts = [place for place, moment in enumerate(found) if _is_start(moment)]
            return found[starts[-1] if starts else 0 :]
        return []


def _since_boot() -> float:
    """Seconds, asleep or awake, by clocks that nobody can set."""
    return time.monotonic() + seconds_asleep()


def _is_start(moment: Moment) -> bool:
    return moment.event == "session began" and moment.name == FIRST


def _moment(line: bytes) -> Moment | None:
    with suppress(ValueError, RecursionError):
        return from_json(Moment, json.loads(line))
    return None
