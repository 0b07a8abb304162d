"""The project's own fast tests of the library, in a process of their own: whether it computes here what it should."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from flows.context.paths import CHECKOUT
from flows.context.provenance import installed_packages
from flows.ledger.code_digests import EDITED
from flows.ledger.facts import TESTS, Tests
from flows.ledger.markers import FAILED, Marker, MarkerFiles, last_finished
from nanogpt import durable
from nanogpt.machine import processor_name
from nanogpt.records import from_json
from nanogpt.units import duration

COMMAND = ("-m", "pytest", "-m", "fast", "-p", "no:cacheprovider", "tests/nanogpt")
MOST_SECONDS = 600.0  # a suite that hangs
LEAST_SECONDS = 30.0  # with less they are not begun: they take 28 s of an AMD EPYC, nearly all of it in one thread
RESERVE = 0.01  # of the budget, which they leave to the phases after them
SECONDS_BETWEEN_PULSES = 10.0


def seconds_allowed(budget: float, spare: float) -> float:
    """How long they may take where `spare` seconds are left; 0: not at all. A plan sets nothing aside for them: they
    have what it keeps for a slow machine, where that has not been needed."""
    seconds = min(MOST_SECONDS, spare - RESERVE * budget)
    return seconds if seconds >= LEAST_SECONDS else 0.0


def too_little(budget: float, spare: float) -> str:
    """Why they are not begun where `spare` seconds are left."""
    left = spare - RESERVE * budget
    found = duration(left) if left > 0 else "no time"
    return f"the rest of the run leaves {found} for them, and they take {duration(LEAST_SECONDS)} or more"


def earlier(states: Path, code: dict[str, str]) -> Tests | None:
    """What they gave before in this workspace, in any run, with the same code, packages, Python and processor; None
    where the last attempt of a run at this code has failed."""
    found = [MarkerFiles(folder).read(TESTS.step)[0] for folder in sorted(states.glob("*/markers"))]
    markers = [marker for marker in found if marker is not None]
    if EDITED in code.values() or any(marker.code == code and _failed_last(marker) for marker in markers):
        return None
    surroundings = surroundings_digest()
    for finished in filter(None, map(last_finished, markers)):
        facts = _facts(finished)
        if finished.code == code and facts and facts.surroundings == surroundings and facts.has_finished:
            return facts if facts.taken_from else replace(facts, taken_from=finished.finished_at[:16])
    return None


def _failed_last(marker: Marker) -> bool:
    return marker.state == FAILED or any(attempt.ended.startswith("failed") for attempt in marker.history[-1:])


def _facts(finished: Marker) -> Tests | None:
    try:
        return from_json(Tests, finished.facts)
    except ValueError:
        return None


def not_run(reason: str) -> Tests:
    return Tests(command=_shown(), passed=0, failed=0, skipped=0, seconds=0.0, timed_out=False, tail="", not_run=reason)


def run_own_tests(seconds: float, log: Path, pulse: Callable[[], None]) -> Tests:
    """Run them for `seconds` at most, with a `pulse` from time to time. What they wrote goes to `log` unless they pass.
    A run that is cut short says nothing against the machine: it is reported as not finished. Raises OSError."""
    began = time.monotonic()
    code, output, errors = _output_within(seconds, pulse)
    timed_out = code is None
    written = output.decode("utf-8", "replace")
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|error)", written)}
    failed = counts.get("failed", 0) + counts.get("error", 0)
    if code or timed_out:
        durable.write_bytes(log, output + errors)
    last = (written + errors.decode("utf-8", "replace")).strip().splitlines()[-15:]
    return Tests(
        command=_shown(),
        passed=counts.get("passed", 0),
        failed=max(failed, 1) if code else failed,
        skipped=counts.get("skipped", 0),
        seconds=round(time.monotonic() - began, 1),
        timed_out=timed_out,
        tail="\n".join(last),
        surroundings=surroundings_digest(),
    )


def _output_within(seconds: float, pulse: Callable[[], None]) -> tuple[int | None, bytes, bytes]:
    """Their exit code, None when they take longer than `seconds`, and what they wrote to stdout and stderr."""
    deadline = time.monotonic() + seconds
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONOPTIMIZE": ""}
    with subprocess.Popen(
        [sys.executable, *COMMAND],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            while True:
                pulse()
                try:
                    left = max(0.0, deadline - time.monotonic())
                    output, errors = process.communicate(timeout=min(SECONDS_BETWEEN_PULSES, left))
                    return process.returncode, output, errors
                except subprocess.TimeoutExpired as so_far:
                    if time.monotonic() >= deadline:
                        return None, so_far.stdout or b"", so_far.stderr or b""
        finally:
            if process.returncode is None:
                with suppress(OSError):  # it has ended meanwhile
                    os.killpg(process.pid, signal.SIGKILL)  # with what a test has started


def surroundings_digest() -> str:
    """Of the names and versions of all that is installed, of Python's own, and of the processor."""
    packages = sorted(f"{name} {version}" for name, version in installed_packages().items())
    return durable.digest([*packages, sys.version, processor_name()])


def _shown() -> str:
    return " ".join(["python", *(word for word in COMMAND if word not in ("-p", "no:cacheprovider"))])
