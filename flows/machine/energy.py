"""The energy that the machine used during a run, as far as it measures that itself: read in a moment, kept over kills.

Counters (RAPL: the processor's packages and their memory) count joules by themselves. Of what says only its power (a
GPU, a Mac's processor), a look stands for the time since the look before. All count the whole machine's part, other
programs included; nothing counts the screen, the disks or the power supply.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nanogpt import durable
from nanogpt.records import from_json, to_json

RAPL = Path("/sys/class/powercap")
LONGEST_GAP = 300.0  # seconds that the power at one look may stand for
PATIENCE = 5.0  # seconds for a program that says what a device takes


@dataclass(frozen=True)
class Energy:
    """Joules by what used them, over the `seconds` in which they were counted. Without any, `unknown` says why."""

    joules: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    unknown: str = ""

    @property
    def total(self) -> float | None:
        return sum(self.joules.values()) if self.joules else None


class Counter:
    """Joules since the look before, of a counter that begins again at `limit`."""

    def __init__(self, name: str, read: Callable[[], float | None], limit: float):
        self.name, self._read, self._limit = name, read, limit
        self._before = read()

    def since(self, _seconds: float) -> float | None:
        """None where it cannot be read."""
        before, self._before = self._before, self._read()
        if before is None or self._before is None:
            return None
        return self._before - before if self._before >= before else self._before + self._limit - before


class PowerMeter:
    """Joules since the look before, of what says how many watts it takes."""

    def __init__(self, name: str, read: Callable[[], float | None]):
        self.name, self._read = name, read

    def since(self, seconds: float) -> float | None:
        """None where it cannot be read, or where nobody looked for so long that the power says nothing of it."""
        watts = self._read()
        return None if watts is None or seconds > LONGEST_GAP else watts * seconds


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


def meters(rapl: Path = RAPL) -> tuple[list[Counter | PowerMeter], str]:
    """What measures energy here, and, where nothing does, why that is not known."""
    counters, problem = _rapl_counters(rapl)
    found: list[Counter | PowerMeter] = [*counters]
    if shutil.which("nvidia-smi") and gpu_watts() is not None:
        found.append(PowerMeter("GPU", gpu_watts))
    if sys.platform == "darwin":
        if os.geteuid() == 0 and shutil.which("powermetrics"):
            found.append(PowerMeter("processor and GPU", mac_watts))
        else:
            problem = "a Mac says it to root alone (powermetrics)"
    return found, "" if found else problem


def _rapl_counters(folder: Path) -> tuple[list[Counter], str]:
    """A counter for each package of the processor, and for memory that is counted apart."""
    problem = "this machine has no meter that can be read (RAPL, nvidia-smi, powermetrics)"
    found: list[Counter] = []
    for zone in sorted(folder.glob("intel-rapl:*")):  # AMD's processors have the same name here
        kind = (_text(zone / "name") or "").partition("-")[0]
        name = {"package": "processor", "dram": "memory"}.get(kind)
        if name is None:
            continue
        limit = _microjoules(zone / "max_energy_range_uj")
        if _microjoules(zone / "energy_uj") is None or limit is None:
            problem = f"{zone / 'energy_uj'} is there, and only root may read it"
            continue
        found.append(Counter(name, partial(_microjoules, zone / "energy_uj"), limit))
    return found, problem


def _microjoules(path: Path) -> float | None:
    """Joules of a file in microjoules."""
    text = _text(path)
    return int(text) / 1e6 if text and text.isdigit() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def gpu_watts() -> float | None:
    """Of all NVIDIA GPUs together."""
    said = _said("nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits")
    return watts_of_gpus(said) if said is not None else None


def watts_of_gpus(said: str) -> float | None:
    """What nvidia-smi says: a line a GPU, `61.23`, or `[N/A]` for one that does not measure it."""
    figures = [float(line) for line in said.split() if re.fullmatch(r"\d+(\.\d+)?", line)]
    return sum(figures) if figures else None


def mac_watts() -> float | None:
    said = _said("powermetrics", "-n", "1", "-i", "200", "--samplers", "cpu_power")
    return watts_of_mac(said) if said is not None else None


def watts_of_mac(said: str) -> float | None:
    """What powermetrics says: `Combined Power (CPU + GPU + ANE): 5321 mW`."""
    found = re.search(r"Combined Power[^:]*:\s*(\d+)\s*mW", said)
    return int(found[1]) / 1000 if found else None


def _said(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
