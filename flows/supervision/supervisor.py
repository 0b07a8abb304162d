"""Runs the trainer as a child process and watches it: heartbeat, progress, stall, stop, exit -> symptom.

The contract with the trainer is files in the model's folder (heartbeat, metrics.jsonl, events.jsonl, outcome.json)
and the exit code; neither knows the other's code.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows.machine.memory_pressure import MemoryPressure
from nanogpt import durable, faults

EXIT_STOPPED = 143
POLL_SECONDS = 0.25
GRACE_SECONDS = 8.0  # Ctrl-C must end within 10 s; what is not saved by then is done again from the last checkpoint
PAUSE_GRACE_SECONDS = 60.0  # nobody waits for a pause, and what it saves is not done again
STALL_SECONDS = 300.0  # of waking time: time.monotonic stands still while the machine sleeps
STALL_STEPS = 20.0  # where that is longer
COMPILING_SECONDS = 1200.0  # it shows no life meanwhile; the 0.8 M model took 77 s on two cores
DUMP_SECONDS = 5.0  # for faulthandler to write every thread's stack
# Metal's word for numbers that are wrong from now on; nothing is raised (pytorch, MPSStream.mm).
WRONG_NUMBERS = re.compile(r"^(Error: )?command buffer exited with error status", re.MULTILINE)
# faulthandler's: signal handlers are the main thread's, and it is "current" then; the innermost call comes first
MAIN_THREAD = re.compile(r'^Current thread [^\n]*\n\s+File "([^"]+)", line (\d+) in (\S+)', re.MULTILINE)


@dataclass(frozen=True)
class Ending:
    """How a trainer ended: a symptom of nanogpt.faults ("" when it finished), the evidence, and its outcome.

    trusted: the checkpoints that were there before its numbers went wrong; any other is wrong, though whole. None: all
    can be trusted.
    """

    symptom: str
    evidence: str
    outcome: dict
    trusted: frozenset | None = None


def train(
    arguments: list[str],
    folder: Path,
    log: Path,
    on_progress: Callable[[dict], None],
    *,
    device: str = "cpu",
    stall_seconds: float | None = None,
    step_seconds: float = 0.0,
    reason_to_pause: Callable[[], str] = lambda: "",
) -> Ending:
    """Run `nanogpt train` with `arguments` in `folder` until it ends.

    `on_progress` gets each new heartbeat. `reason_to_pause` is asked at every look; once it gives one, the child is
    asked to save and end, with the symptom "paused". KeyboardInterrupt (Ctrl-C, SIGTERM) stops the child, which
    saves, and is raised again. Child output goes to `log`. `step_seconds` is what a step is expected to take. On an
    accelerator, `device`, a child that aborts was aborted by it, and one that complains of a command buffer computes
    nonsense from then on.
    """
    (folder / "outcome.json").unlink(missing_ok=True)
    said = ChildLog(log)
    patience = STALL_SECONDS if stall_seconds is None else stall_seconds
    life = Life(_read(folder / "heartbeat"), patience, step_seconds)
    pressure = MemoryPressure()
    with open(log, "ab") as output:
        # A session of its own: Ctrl-C reaches the child once, from here, and never twice.
        child = subprocess.Popen(
            trainer_command(arguments), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        trusted = checkpoints_in(folder)
        while child.poll() is None:
            if device != "cpu":
                written = checkpoints_in(folder)  # before the look at the log: what comes with a complaint is none
                if line := said.line_like(WRONG_NUMBERS):
                    _kill(child)  # asked to end, it would save what it has
                    return Ending(faults.DEVICE, line, {}, trusted)
                trusted = written
            pressure.look()
            time.sleep(POLL_SECONDS)
            heartbeat = _read(folder / "heartbeat")
            if life.is_shown_by(heartbeat):
                on_progress(heartbeat)
            elif seconds := life.is_missed_for():
                where = _dump_and_stop(child, said)
                told = f"no heartbeat for {seconds:.0f} s at step {life.step}; {where}"
                return Ending("stall", told, {})
            if reason := reason_to_pause():
                _stop(child, PAUSE_GRACE_SECONDS)
                if child.returncode != 0:  # else it has finished meanwhile
                    return Ending("paused", reason, {})
    except BaseException:
        _stop(child)
        raise
    if device != "cpu" and (line := said.line_like(WRONG_NUMBERS)):
        return Ending(faults.DEVICE, line, {}, trusted)
    return _ending(child.returncode, _read(folder / "outcome.json"), pressure, said, device)


def checkpoints_in(folder: Path) -> frozenset:
    """Every checkpoint of a model, best/ included, each with what no later one of its name has."""
    found = set()
    for manifest in [*folder.glob("checkpoints/*/manifest.json"), folder / "best/manifest.json"]:
        try:
            facts = manifest.stat()
        except OSError:
            continue  # replaced or removed just now
        found.add((manifest.parent, facts.st_ino, facts.st_mtime_ns))
    return frozenset(found)


def trainer_command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "nanogpt.cli", "train", *arguments, "--parent", str(os.getpid())]


def _ending(code: int, outcome: dict, pressure: MemoryPressure, said: ChildLog, device: str) -> Ending:
    if code == 0 and outcome.get("status") == "finished":
        return Ending("", "", outcome)
    if code == 2:
        return Ending("user_error", outcome.get("message") or said.last_words(), outcome)
    if code in (EXIT_STOPPED, -signal.SIGTERM, -signal.SIGINT):
        return Ending("stopped", "somebody asked the trainer to stop", outcome)
    if code < 0:
        return _killed(signal.Signals(-code), pressure, said, device)
    if outcome.get("symptom"):
        return Ending(outcome["symptom"], outcome.get("message", ""), outcome)
    for symptom, its_code in faults.EXIT_CODES.items():
        if code == its_code:  # there was no room, or no folder, for an outcome
            return Ending(symptom, f"exit code {code}; {said.last_words()}", outcome)
    symptom = faults.symptom_in(said.text()) or "crashed"
    return Ending(symptom, f"exit code {code}; {said.last_words()}", outcome)


def _killed(number: signal.Signals, pressure: MemoryPressure, said: ChildLog, device: str) -> Ending:
    """A signal has no message: memory, the child's last words and the device tell what it was."""
    evidence = f"ended by {number.name}; {said.last_words()}"
    if number == signal.SIGKILL:
        if told := pressure.evidence():
            return Ending(faults.OUT_OF_MEMORY, told, {})
        return Ending("killed", evidence, {})
    if faults.symptom_in(said.text()) == faults.OUT_OF_MEMORY:  # of an uncaught std::bad_alloc
        return Ending(faults.OUT_OF_MEMORY, evidence, {})
    return Ending("aborted" if device == "cpu" else faults.DEVICE, evidence, {})


class Life:
    """Whether a child goes on: the time since its heartbeat last changed, and how long that may be."""

    def __init__(self, earlier: dict, stall_seconds: float, step_seconds: float = 0.0):
        self._latest, self._patience = earlier, stall_seconds  # an earlier attempt's is no sign of life
        self._beat_at = self._stepped_at = time.monotonic()
        self._step_seconds = step_seconds
        self.step: int | None = None

    def is_shown_by(self, heartbeat: dict) -> bool:
        """Whether `heartbeat` is a new one."""
        if not heartbeat or heartbeat == self._latest:
            return False
        now = time.monotonic()
        step = heartbeat.get("step", 0)
        if self.step is None or step > self.step:
            if self.step is not None:
                self._step_seconds = (now - self._stepped_at) / (step - self.step)
            self._stepped_at = now
        self.step, self._latest, self._beat_at = step, heartbeat, now
        return True

    def is_missed_for(self) -> float:
        """Seconds without a heartbeat, once they are too many; else 0."""
        seconds = time.monotonic() - self._beat_at
        patience = max(self._patience, STALL_STEPS * self._step_seconds)
        if self._latest.get("activity") == "compiling" and self.step is not None:
            patience = max(patience, COMPILING_SECONDS)
        return seconds if seconds > patience else 0.0


class ChildLog:
    """What one child says: the part of its log from now on, read as it grows."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.unblock(path)
        if path.is_symlink() and not path.exists():  # no log that cannot be opened may stop a training
            path.unlink()
        self.path = path
        self._began_at = self._read_to = path.stat().st_size if path.exists() else 0

    def line_like(self, pattern: re.Pattern) -> str:
        """The first whole line since the last call that `pattern` finds; "" without one."""
        new = self._from(self._read_to)
        new = new[: new.rfind(b"\n") + 1]
        self._read_to += len(new)
        text = new.decode("utf-8", "replace")
        found = pattern.search(text)
        return text[found.start() :].splitlines()[0][:300] if found else ""

    def text(self, most: int = 64_000, since: int = 0) -> str:
        """All that was said, beyond the file's byte `since`, or its last `most` bytes."""
        return self._from(max(self._began_at, since, self.size() - most)).decode("utf-8", "replace")

    def size(self) -> int:
        """Of the file, in bytes; 0 when somebody has removed it."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def _from(self, byte: int) -> bytes:
        try:
            with open(self.path, "rb") as file:
                file.seek(byte)
                return file.read()
        except OSError:  # removed: what it said is lost, and no reason to stop a training
            return b""

    def last_words(self) -> str:
        """The last error's line, where there is one: the stacks of an abort come behind it."""
        lines = self.text().strip().splitlines()
        errors = [line for line in lines if faults.is_error_line(line)]
        return (errors or lines or ["it said nothing"])[-1].strip()[:300]


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


def _kill(child: subprocess.Popen) -> None:
    child.kill()
    child.wait()


def _dump_and_stop(child: subprocess.Popen, said: ChildLog) -> str:
    """The child's stacks into its log (faulthandler listens to SIGUSR1), then its end; where its main thread was."""
    before = said.size()
    child.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + DUMP_SECONDS
    found = None
    while found is None and child.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        found = MAIN_THREAD.search(said.text(since=before))
    _stop(child)
    if found is None:
        return "it gave no stack"
    file, line, function = found.groups()
    return f"in {function} ({Path(file).name}:{line}), the stacks are in {said.path}"


def _read(path: Path) -> dict:
    try:
        value = durable.read_json(path)
    except (OSError, json.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
