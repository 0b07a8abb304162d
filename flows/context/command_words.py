"""What the words of a command line mean: the phases, lengths of time and a speed. Standard library only."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

FULL_RUN = Path(__file__).resolve().parents[1] / "full_run.py"
# Read as text: importing it needs the packages.
PHASES = tuple(re.findall(r"^    (\w+)\.PHASE,", FULL_RUN.read_text(encoding="utf-8"), re.MULTILINE))
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SHORTEST_BUDGET = 60.0
SLOWEST, FASTEST = 1e6, 1e20  # FLOP/s: between a machine of the eighties and the largest there are


def seconds_of(budget: object) -> float:
    """`90s`, `10m`, `1.5h`, `3h10m` or a number of seconds -> seconds. Raises ValueError that names what is allowed."""
    number = r"(\d+(?:\.\d+)?)"
    if not re.fullmatch(rf"\s*({number}\s*|({number}\s*[smhd]\s*)+)", str(budget)):
        raise ValueError(f"found {str(budget)!r}, expected a time such as 90s, 10m, 1h or 3h10m")
    parts = re.findall(rf"{number}\s*([smhd]?)", str(budget))
    seconds = sum(float(count) * SECONDS[unit or "s"] for count, unit in parts)
    if seconds < SHORTEST_BUDGET:
        alone = "" if re.search("[smhd]", str(budget)) else "; a number without a unit is in seconds"
        raise ValueError(f"found {budget}, the shortest budget is {SHORTEST_BUDGET:.0f}s{alone}")
    return seconds


def budget_of(seconds: float) -> str:
    """At least `seconds`, as --budget takes it: '8m', and from two hours on in tens of minutes, '3h10m'."""
    minutes = math.ceil(seconds / 60)
    if minutes < 120:
        return f"{minutes}m"
    hours, tens = divmod(math.ceil(minutes / 10), 6)
    return f"{hours}h{tens}0m" if tens else f"{hours}h"


@dataclass(frozen=True)
class AssumedSpeed:
    """A step of training on a machine that is not here: `seconds` for `tokens` through a model of `parameters`."""

    parameters: float
    tokens: float
    seconds: float

    @property
    def flops_per_second(self) -> float:
        """Forward and backward: 6 for each parameter and token."""
        return 6 * self.parameters * self.tokens / self.seconds


def assumed_speed_of(text: str) -> AssumedSpeed:
    """`30M:4096:400ms`: parameters, tokens of a step, its time. Raises ValueError that names what is allowed."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMB]?):(\d+):(\d+(?:\.\d+)?)(ms|s)", text.strip())
    if match is None or not all(float(match[group]) for group in (1, 3, 4)):
        raise ValueError(f"found {text!r}, expected PARAMETERS:TOKENS:TIME of a step, such as 30M:4096:400ms")
    parameters = float(match[1]) * {"": 1, "k": 1e3, "M": 1e6, "B": 1e9}[match[2]]
    speed = AssumedSpeed(parameters, float(match[3]), float(match[4]) / (1000 if match[5] == "ms" else 1))
    if not SLOWEST <= speed.flops_per_second <= FASTEST:  # NaN is not, either
        allowed = f"from {SLOWEST:.0e} to {FASTEST:.0e} FLOP/s (6 x PARAMETERS x TOKENS / TIME)"
        raise ValueError(f"found {text[:40]!r}, {speed.flops_per_second:.1e} FLOP/s; expected {allowed}")
    return speed
