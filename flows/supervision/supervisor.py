"""Runs the trainer as a child process and watches it: heartbeat, progress, stall, stop, exit -> symptom.

The contract with the trainer is files in the model's folder (heartbeat, metrics.jsonl, events.jsonl, outcome.json)
and the exit code; neither knows the other's code.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows.context import stop_signal
from flows.supervision.model_files import CheckpointId, ModelFiles
from nanogpt import durable, faults
from nanogpt.process.endings import CRASHED, STALL, WRONG_NUMBERS, ProcessLog, death_by_signal
from nanogpt.process.memory_pressure import MemoryPressure
from nanogpt.results.training import Heartbeat, TrainingFailure, TrainingOutcome

EXIT_STOPPED = 143
LOOK_SECONDS = 0.5  # between two looks at a trainer and at the memory; its end is noticed at once
DEVICE_LOOK_SECONDS = 0.25  # on an accelerator, whose wrong numbers must not be saved; the processor is not busy there
STACK_LOOK_SECONDS = 0.25
GRACE_SECONDS = 8.0  # Ctrl-C must end within 10 s; what is not saved by then is done again from the last checkpoint
PAUSE_GRACE_SECONDS = 60.0  # nobody waits for a pause, and what it saves is not done again
KILL_SECONDS = 60.0  # for the kernel to end a process and free its memory
STALL_SECONDS = 300.0  # of waking time: time.monotonic stands still while the machine sleeps
STALL_STEPS = 20.0  # where that is longer
COMPILING_SECONDS = 1200.0  # it shows no life meanwhile; the 0.8 M model took 77 s on two cores
DUMP_SECONDS = 5.0  # for faulthandler to write every thread's stack
# faulthandler's: signal handlers are the main thread's, and it is "current" then; the innermost call comes first
MAIN_THREAD = re.compile(r'^Current thread [^\n]*\n\s+File "([^"]+)", line (\d+) in (\S+)', re.MULTILINE)

FINISHED, PAUSED, STOPPED, USER_ERROR, GIVEN_UP = "", "paused", "stopped", "user_error", "given_up"


class Unkillable(RuntimeError):
    """A child that the kernel does not let go, because a driver or a disk does not answer."""


@dataclass(frozen=True)
class Ending:
    """How a trainer ended: a symptom of nanogpt.faults, of nanogpt.process.endings or of the above, and the evidence.

    `trusted`: the checkpoints that were there before its numbers went wrong; any other is wrong, though whole. None:
    all can be trusted.
    """

    symptom: str
    evidence: str
    outcome: TrainingOutcome | TrainingFailure | None = None
    trusted: frozenset[CheckpointId] | None = None

    @property
    def disk_needed(self) -> int | None:
        """Bytes that there was no room for."""
        return self.outcome.needed if isinstance(self.outcome, TrainingFailure) else None


def train(
    arguments: list[str],
    files: ModelFiles,
    log: Path,
    on_progress: Callable[[Heartbeat], None],
    *,
    device: str = "cpu",
    stall_seconds: float | None = None,
    step_seconds: float = 0.0,
    reason_to_pause: Callable[[], str] = lambda: "",
    reason_to_give_up: Callable[[], str] = lambda: "",
) -> Ending:
    """Run `nanogpt train` with `arguments` in a model's folder until it ends.

    `on_progress` gets each new heartbeat. `reason_to_pause` is asked at every look; once it gives one, the child is
    asked to save and end, with the symptom "paused"; so it is with `reason_to_give_up` and "given_up".
    KeyboardInterrupt (Ctrl-C, SIGTERM) stops the child, which saves, and is raised again. Child output goes to `log`.
    `step_seconds` is what a step is expected to take. On an accelerator, `device`, a child that aborts was aborted by
    it, and one that complains of a command buffer computes nonsense from then on.

    Raises Unkillable.
    """
    files.forget_outcome()
    said = ProcessLog(log)
    life = Life(files.heartbeat(), STALL_SECONDS if stall_seconds is None else stall_seconds, step_seconds)
    pressure = MemoryPressure()
    with open(durable.open_to_append(log), "ab") as output:
        # A session of its own: Ctrl-C reaches the child once, from here, and never twice.
        child = subprocess.Popen(
            trainer_command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        trusted = files.checkpoints()
        has_ended = _when_ended(child)
        while not has_ended.is_set():
            if device != "cpu":
                written = files.checkpoints()  # before the look at the log: what comes with a complaint is wrong
                if line := said.line_like(WRONG_NUMBERS):
                    _kill(child)  # asked to end, it would save what it has
                    return Ending(faults.DEVICE, line, trusted=trusted)
                trusted = written
            pressure.look()
            has_ended.wait(LOOK_SECONDS if device == "cpu" else DEVICE_LOOK_SECONDS)
            stop_signal.check()
            heartbeat = files.heartbeat()
            if heartbeat and life.is_shown_by(heartbeat):
                on_progress(heartbeat)
            elif seconds := life.is_missed_for():
                where = _dump_and_stop(child, said)
                return Ending(STALL, f"no heartbeat for {seconds:.0f} s at step {life.step}; {where}")
            for symptom, reason in ((PAUSED, reason_to_pause()), (GIVEN_UP, reason_to_give_up())):
                if reason and child.poll() is None:
                    _stop(child, PAUSE_GRACE_SECONDS)
                    if child.returncode != 0:  # else it has finished meanwhile
                        return Ending(symptom, reason)
    except Unkillable:
        raise
    except BaseException:
        with contextlib.suppress(Unkillable):  # that it does not end is no news for who wants to leave
            _stop(child)
        raise
    if device != "cpu" and (line := said.line_like(WRONG_NUMBERS)):
        return Ending(faults.DEVICE, line, trusted=trusted)
    return _ending(child.returncode, files.outcome(), pressure, said, device)


def trainer_command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "nanogpt.cli", "train", *arguments, "--parent", str(os.getpid())]


def _when_ended(child: subprocess.Popen[bytes]) -> threading.Event:
    """Set once the child has ended: one thread waits for that, where looks would take a millisecond of a core each."""
    ended = threading.Event()

    def wait() -> None:
        child.wait()
        ended.set()

    threading.Thread(target=wait, name="trainer-end", daemon=True).start()
    return ended


def _ending(
    code: int,
    outcome: TrainingOutcome | TrainingFailure | None,
    pressure: MemoryPressure,
    said: ProcessLog,
    device: str,
) -> Ending:
    failure = outcome if isinstance(outcome, TrainingFailure) else None
    if code == 0 and isinstance(outcome, TrainingOutcome) and outcome.status == "finished":
        return Ending(FINISHED, "", outcome)
    if code == 2:
        return Ending(USER_ERROR, failure.message if failure else said.last_words().removeprefix("nanogpt: "), outcome)
    if code in (EXIT_STOPPED, -signal.SIGTERM, -signal.SIGINT):
        return Ending(STOPPED, "somebody asked the trainer to stop", outcome)
    if code < 0:
        death = death_by_signal(-code, pressure, said, device)
        return Ending(death.symptom, death.evidence)
    if failure:
        return Ending(failure.symptom, failure.message, failure)
    for symptom, its_code in faults.EXIT_CODES.items():
        if code == its_code:  # there was no room, or no folder, for an outcome
            return Ending(symptom, f"exit code {code}; {said.last_words()}", outcome)
    return Ending(faults.symptom_in(said.text()) or CRASHED, f"exit code {code}; {said.last_words()}", outcome)


class Life:
    """Whether a child makes progress: the time since its heartbeat last changed, and how long that may be."""

    def __init__(self, earlier: Heartbeat | None, stall_seconds: float, step_seconds: float):
        self._latest, self._patience = earlier, stall_seconds  # an earlier attempt's is no sign of life
        self._beat_at = self._stepped_at = time.monotonic()
        self._step_seconds = step_seconds
        self.step: int | None = None

    def is_shown_by(self, heartbeat: Heartbeat) -> bool:
        """Whether `heartbeat` is a new one."""
        if heartbeat == self._latest:
            return False
        now = time.monotonic()
        if self.step is None or heartbeat.step > self.step:
            if self.step is not None:
                self._step_seconds = (now - self._stepped_at) / (heartbeat.step - self.step)
            self._stepped_at = now
        self.step, self._latest, self._beat_at = heartbeat.step, heartbeat, now
        return True

    def is_missed_for(self) -> float:
        """Seconds without a heartbeat, once they are too many; else 0."""
        seconds = time.monotonic() - self._beat_at
        patience = max(self._patience, STALL_STEPS * self._step_seconds)
        if self.step is not None and self._latest and self._latest.activity == "compiling":
            patience = max(patience, COMPILING_SECONDS)
        return seconds if seconds > patience else 0.0


def _stop(child: subprocess.Popen[bytes], grace_seconds: float | None = None) -> None:
    """Ask the child to save and end; insist after a grace, or when a person asks twice."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(GRACE_SECONDS if grace_seconds is None else grace_seconds)
    except subprocess.TimeoutExpired:
        _kill(child)
    except KeyboardInterrupt:
        child.kill()
        raise


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Raises Unkillable."""
    child.kill()
    try:
        child.wait(KILL_SECONDS)
    except subprocess.TimeoutExpired:
        raise Unkillable(
            f"process {child.pid}, which trains, was killed and did not end within {KILL_SECONDS:g} s: it waits for a "
            "device or a disk that does not answer; restart the machine, then run the same command again"
        ) from None


def _dump_and_stop(child: subprocess.Popen[bytes], said: ProcessLog) -> str:
    """The child's stacks into its log (faulthandler listens to SIGUSR1), then its end; where its main thread was."""
    before = said.size()
    child.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + DUMP_SECONDS
    found = None
    while found is None and child.poll() is None and time.monotonic() < deadline:
        time.sleep(STACK_LOOK_SECONDS)
        found = MAIN_THREAD.search(said.text(since=before))
    _stop(child)
    if found is None:
        return "it gave no stack"
    file, line, function = found.groups()
    return f"in {function} ({Path(file).name}:{line}), the stacks are in {said.path}"
