"""A calendar that is set while programs run: Python imports this file at its start when it is on PYTHONPATH.

time.time and time.time_ns tell what they would, and the seconds that the file CLOCK_SHIFT names holds at that moment.
The clocks that nobody can set (time.monotonic) stay as they are.
"""

import os
import time

if path := os.environ.get("CLOCK_SHIFT"):
    real, real_ns = time.time, time.time_ns

    def shift() -> float:
        with open(path) as file:
            return float(file.read() or 0)

    time.time = lambda: real() + shift()
    time.time_ns = lambda: real_ns() + int(shift() * 1e9)
