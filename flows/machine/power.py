"""Battery and heat, as far as the system says: read in a moment, and put into words."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

import psutil

HOT_SHARE = 0.95  # of the temperature at which a processor slows itself down
SLOWED_BELOW = 100  # percent of its speed that macOS allows the processor
# What psutil may raise: it has no such function here, or a driver writes what it cannot read. A run needs neither.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Battery:
    percent: float
    discharging: bool

    def __str__(self) -> str:
        return f"battery {self.percent:.0f} %{', discharging' if self.discharging else ', on power'}"


@dataclass(frozen=True)
class Heat:
    hot: bool
    words: str

    def __str__(self) -> str:
        return self.words


def battery() -> Battery | None:
    """None on a machine without one."""
    try:
        found = psutil.sensors_battery()
    except UNREADABLE:
        return None
    return None if found is None else Battery(found.percent, discharging=found.power_plugged is False)


def heat() -> Heat | None:
    """Whether the machine is so hot that it is slowed down, or nearly; None where nothing says."""
    return _heat_of_mac() if sys.platform == "darwin" else _heat_of_sensors()


def _heat_of_sensors() -> Heat | None:
    """The sensor that is nearest to its limit."""
    try:
        sensors = [sensor for row in psutil.sensors_temperatures().values() for sensor in row]
    except UNREADABLE:
        return None
    limits = [(sensor.current, sensor.high or sensor.critical) for sensor in sensors if sensor.current]
    shares = [(current / limit, current, limit) for current, limit in limits if limit]
    if not shares:
        return None
    share, current, limit = max(shares)
    return Heat(share >= HOT_SHARE, f"{current:.0f} °C of {limit:.0f} °C")


def _heat_of_mac() -> Heat | None:
    if shutil.which("pmset") is None:
        return None
    try:
        said = subprocess.run(["pmset", "-g", "therm"], capture_output=True, text=True, timeout=5).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return heat_in_pmset(said)


def heat_in_pmset(said: str) -> Heat | None:
    """What `pmset -g therm` says: `CPU_Speed_Limit = 70`, or notes that no warning is recorded."""
    limit = re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", said)
    if limit:
        return Heat(int(limit[1]) < SLOWED_BELOW, f"processor at {limit[1]} % of its speed")
    return Heat(False, "no thermal warning") if "No thermal warning" in said else None
