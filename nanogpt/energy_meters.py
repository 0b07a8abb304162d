"""What measures energy on this machine: counters of joules, and what says how many watts something takes.

Counters (RAPL: the processor's packages and their memory) count joules by themselves. Of what says only its power (a
GPU, a Mac), a look stands for the time since the look before. All count the whole machine's part, other programs
included; only a Mac's battery controller counts the screen and the disks too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

RAPL = Path("/sys/class/powercap")
LONGEST_GAP = 300.0  # seconds that the power at one look may stand for
PATIENCE = 5.0  # seconds for a program that says what a device takes


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
            found += [PowerMeter("whole Mac", mac_load)] if mac_load() is not None else []
            problem = "a Mac without a battery says it to root alone (powermetrics)"
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


def mac_load() -> float | None:
    """Watts of a whole Mac with a battery, as its controller says to anybody, about once a minute."""
    said = _said("ioreg", "-rn", "AppleSmartBattery", "-w0")
    return load_of_mac(said) if said is not None else None


def load_of_mac(said: str) -> float | None:
    """What ioreg says within PowerTelemetryData: `"SystemLoad"=8963`, in milliwatts."""
    found = re.search(r'"SystemLoad"\s*=\s*(\d+)', said)
    return int(found[1]) / 1000 if found else None


def _said(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
