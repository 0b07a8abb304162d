"""The energy that the machine used during a run, as far as it measures that itself (nanogpt.energy_meters): read in a
moment, kept over kills."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nanogpt import durable
from nanogpt.energy_meters import Counter, PowerMeter, meters
from nanogpt.records import from_json, to_json


@dataclass(frozen=True)
class Energy:
    """Joules by what used them, over the `seconds` in which they were counted. Without any, `unknown` says why."""

    joules: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    unknown: str = ""

    @property
    def total(self) -> float | None:
        return sum(self.joules.values()) if self.joules else None


class EnergyMeter:
    """Adds up what the machine's meters say, in `file`, over the sessions of a run."""

    def __init__(self, file: Path, find: Callable[[], tuple[list[Counter | PowerMeter], str]] | None = None):
        self._file, self._find = file, find or meters
        self._meters: list[Counter | PowerMeter] = []
        self._looked_at = time.monotonic()
        self.used = Energy()

    def begin(self, continues: bool) -> None:
        """Start counting; `continues`: after what earlier sessions of the run counted."""
        self._meters, unknown = self._find()
        self._looked_at = time.monotonic()
        earlier = self._noted() if continues else Energy()
        self.used = Energy(earlier.joules, earlier.seconds, "" if earlier.joules else unknown)

    def look(self) -> Energy:
        """Count what was used since the look before; what the run has used so far. A machine asleep uses nothing."""
        now = time.monotonic()
        seconds, self._looked_at = now - self._looked_at, now
        found = [(meter.name, meter.since(seconds)) for meter in self._meters]
        total = dict(self.used.joules)
        for name, joules in found:
            if joules is not None:  # a machine may have two of a name
                total[name] = total.get(name, 0.0) + joules
        if total != self.used.joules:
            self.used = Energy(total, self.used.seconds + seconds)
            with suppress(OSError):  # a full disk costs the note
                durable.write_note(self._file, to_json(self.used))
        return self.used

    def _noted(self) -> Energy:
        note, _ = durable.read_note(self._file)
        try:
            return from_json(Energy, note) if note is not None else Energy()
        except ValueError:
            return Energy()
