"""Runs the trainer as a child process and watches it: heartbeat, progress, stall, stop, exit -> symptom.

The contract with the trainer is files in the model's folder (heartbeat, metrics.jsonl, events.jsonl, outcome.json)
and the exit code; neither knows the other's code.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from nanogpt import durable

EXIT_STOPPED = 143
POLL_SECONDS = 0.25
GRACE_SECONDS = 8.0  # Ctrl-C must end within 10 s; what is not saved by then is done again from the last checkpoint
PAUSE_GRACE_SECONDS = 60.0  # nobody waits for a pause, and what it saves is not done again
STALL_SECONDS = 300.0  # of waking time: time.monotonic stands still while the machine sleeps
MEMORY_PRESSURE = 0.05  # less than this share of memory left before a SIGKILL: the kernel's out-of-memory killer


@dataclass(frozen=True)
class Ending:
    """How a trainer ended: a symptom of nanogpt.faults ("" when it finished), the evidence, and its outcome."""

    symptom: str
    evidence: str
    outcome: dict


def train(
    arguments: list[str],
    folder: Path,
    log: Path,
    on_progress: Callable[[dict], None],
    stall_seconds: float = STALL_SECONDS,
    reason_to_pause: Callable[[], str] = lambda: "",
) -> Ending:
    """Run `nanogpt train` with `arguments` in `folder` until it ends.

    `on_progress` gets each new heartbeat. `reason_to_pause` is asked at every look; once it gives one, the child is
    asked to save and end, with the symptom "paused". KeyboardInterrupt (Ctrl-C, SIGTERM) stops the child, which
    saves, and is raised again. Child output goes to `log`.
    """
    (folder / "outcome.json").unlink(missing_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    memory_left = 1.0
    heartbeat = _read(folder / "heartbeat")  # an earlier attempt's is no sign of life
    with open(log, "ab") as output:
        began_at = output.tell()
        # A session of its own: Ctrl-C reaches the child once, from here, and never twice.
        child = subprocess.Popen(
            trainer_command(arguments), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        seen_at = time.monotonic()
        while child.poll() is None:
            time.sleep(POLL_SECONDS)
            memory_left = _memory_left()
            latest = _read(folder / "heartbeat")
            if latest and latest != heartbeat:
                heartbeat, seen_at = latest, time.monotonic()
                on_progress(heartbeat)
            elif time.monotonic() - seen_at > stall_seconds:
                _dump_and_stop(child)
                return Ending("stall", f"no heartbeat for {stall_seconds:.0f} s at step {heartbeat.get('step')}", {})
            if reason := reason_to_pause():
                _stop(child, PAUSE_GRACE_SECONDS)
                if child.returncode != 0:  # else it has finished meanwhile
                    return Ending("paused", reason, {})
    except BaseException:
        _stop(child)
        raise
    return _ending(child.returncode, _read(folder / "outcome.json"), memory_left, _last_words(log, began_at))


def trainer_command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "nanogpt.cli", "train", *arguments, "--parent", str(os.getpid())]


def _ending(code: int, outcome: dict, memory_left: float, last_words: str) -> Ending:
    if code == 0 and outcome.get("status") == "finished":
        return Ending("", "", outcome)
    if code == 2:
        return Ending("user_error", outcome.get("message") or last_words, outcome)
    if code == EXIT_STOPPED:
        return Ending("stopped", "somebody asked the trainer to stop", outcome)
    if code == -signal.SIGKILL and memory_left < MEMORY_PRESSURE:
        return Ending("out_of_memory", f"killed with {memory_left:.0%} of memory left", outcome)
    if code < 0:
        return Ending("killed", f"ended by {signal.Signals(-code).name}; {last_words}", outcome)
    if outcome.get("symptom"):
        return Ending(outcome["symptom"], outcome.get("message", ""), outcome)
    return Ending("crashed", f"exit code {code}; {last_words}", outcome)


def _stop(child: subprocess.Popen, grace_seconds: float | None = None) -> None:
    """Ask the child to save and end; insist after a grace, or when a person asks twice."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(GRACE_SECONDS if grace_seconds is None else grace_seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    except KeyboardInterrupt:
        child.kill()
        raise


def _dump_and_stop(child: subprocess.Popen) -> None:
    """The child's stacks into its log (faulthandler listens to SIGUSR1), then its end."""
    child.send_signal(signal.SIGUSR1)
    time.sleep(1)
    _stop(child)


def _memory_left() -> float:
    memory = psutil.virtual_memory()
    return memory.available / memory.total


def _read(path: Path) -> dict:
    try:
        value = durable.read_json(path)
    except (OSError, json.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _last_words(log: Path, began_at: int) -> str:
    with open(log, "rb") as file:
        file.seek(began_at)
        lines = file.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
