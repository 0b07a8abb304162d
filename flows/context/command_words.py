"""What the words of a command line mean: the phases and lengths of time. Standard library only."""

import re
from pathlib import Path

FULL_RUN = Path(__file__).resolve().parents[1] / "full_run.py"
# Read as text: importing it needs the packages.
PHASES = tuple(re.findall(r"^    (\w+)\.PHASE,", FULL_RUN.read_text(encoding="utf-8"), re.MULTILINE))
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SHORTEST_BUDGET = 60.0


def seconds_of(budget: object) -> float:
    """`90s`, `10m`, `1.5h` or a number of seconds -> seconds. Raises ValueError that names what is allowed."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", str(budget))
    if not match:
        raise ValueError(f"found {str(budget)!r}, expected a time such as 90s, 10m, 1h or 8h")
    seconds = float(match[1]) * SECONDS[match[2] or "s"]
    if seconds < SHORTEST_BUDGET:
        raise ValueError(f"found {budget}, the shortest budget is {SHORTEST_BUDGET:.0f}s")
    return seconds
