"""The real command as a process that can be waited for, signalled and killed, with all that it has started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.faults.stage.finding import NotSurvived
from flows.context.paths import CHECKOUT

MARK = "FAULTS_SCENE"  # in the environment of every process of a scene: whose it is
POLL_SECONDS = 0.02
TAIL = 1500  # characters of output that a complaint quotes
HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # a campaign begun by nohup or with & hands them on as ignored
PREPARED = (  # limits and signals are set between fork and exec, in a process without threads
    "import json, os, resource, signal, sys\n"
    f"for number in {[int(number) for number in HEARD]}:\n"
    "    signal.signal(number, signal.SIG_DFL)\n"
    "for name, most in json.loads(sys.argv[1]).items():\n"
    "    resource.setrlimit(getattr(resource, name), (most, most))\n"
    "os.execv(sys.argv[2], sys.argv[2:])"
)


class Interrupted(Exception):
    """The person ends the campaign."""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int  # as subprocess has it: -9 for SIGKILL
    output: str  # stdout and stderr
    seconds: float


class Patience:
    """How long a kind may take, and whether the person still wants to know."""

    def __init__(self, seconds: float, interrupted: threading.Event | None = None):
        self._until, self._seconds = time.monotonic() + seconds, seconds
        self._interrupted = interrupted or threading.Event()

    def wait_a_moment(self, for_what: str) -> None:
        """Raises NotSurvived when the time is over, Interrupted when the person ends it all."""
        if self._interrupted.is_set():
            raise Interrupted
        if time.monotonic() > self._until:
            raise NotSurvived(f"after {self._seconds:.0f} s still waiting for {for_what}")
        time.sleep(POLL_SECONDS)


class Process:
    """One start of the command. `limits`: {"RLIMIT_AS": bytes, ...} of it and of all that it starts."""

    def __init__(
        self, command: list[str], environment: Mapping[str, str], output: Path, patience: Patience,
        limits: Mapping[str, int] | None = None, cwd: Path = CHECKOUT,
    ):  # fmt: skip
        if limits or signal.SIG_IGN in map(signal.getsignal, HEARD):
            command = [sys.executable, "-c", PREPARED, json.dumps(dict(limits or {})), *command]
        self._output, self._patience = output, patience
        self._began = time.monotonic()
        with open(output, "wb") as file:
            # A session of its own: Ctrl-C in the campaign's terminal ends the campaign, which ends this.
            self._child = subprocess.Popen(
                command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_bytes().decode("utf-8", "replace")

    @property
    def is_running(self) -> bool:
        return self._child.poll() is None

    @property
    def trainer(self) -> psutil.Process | None:
        """The trainer, while there is one."""
        return next((child for child in self.children() if is_trainer(child)), None)

    def living_trainer(self) -> psutil.Process:
        """The trainer. Raises NotSurvived without one."""
        if (trainer := self.trainer) is None:
            raise NotSurvived(f"there is no trainer: {self.output[-TAIL:]}")
        return trainer

    def children(self) -> list[psutil.Process]:
        """All that it has started, and what that has started."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Until `condition` is true. Raises NotSurvived when the command ends before, or the kind's time."""
        while not condition():
            if not self.is_running and not condition():
                raise NotSurvived(f"ended with {self._child.returncode} before {what}: {self.output[-TAIL:]}")
            self._patience.wait_a_moment(what)

    def wait(self) -> Result:
        """Until it ends."""
        while self.is_running:
            self._patience.wait_a_moment(f"the end of the command: {self.output[-TAIL:]}")
        return Result(self._child.returncode, self.output, time.monotonic() - self._began)

    def end(self) -> None:
        """kill -9, unless it has ended; whatever the kind's time."""
        self._child.kill()
        self._child.wait()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.send(signal.SIGINT)

    def send(self, number: int) -> None:
        """Send a signal to the orchestrator alone."""
        if self.is_running:
            self._child.send_signal(number)

    def kill(self, whom: str = "orchestrator") -> None:
        """kill -9 of the "orchestrator", the "trainer", "both", or "all" that it has started. Waits for its own."""
        victims = [] if whom == "orchestrator" else [self.trainer] if whom in ("trainer", "both") else self.children()
        if whom != "trainer":
            self.send(signal.SIGKILL)
        for victim in filter(None, victims):
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                continue
        if whom != "trainer":
            self._child.wait()


def environment_of(mark: str, more: Mapping[str, str]) -> dict[str, str]:
    """One thread, plain text, this checkout's modules, and the mark of the scene; `more` wins."""
    plain = {
        **os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200", "DO_NOT_TRACK": "1",
        "PYTHONPATH": str(CHECKOUT), MARK: mark,
    }  # fmt: skip
    return {**plain, **more}


def marked(mark: str) -> list[psutil.Process]:
    """Every living process of a scene."""
    return [process for process in psutil.process_iter() if _mark_of(process) == mark]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def is_trainer(process: psutil.Process) -> bool:
    """Whether it is a training in a process of its own."""
    return "nanogpt.cli train" in words_of(process)


def is_worker(process: psutil.Process) -> bool:
    """Whether it is the process in which the orchestrator lets torch compute."""
    return "from multiprocessing.spawn import" in words_of(process)


def is_server(process: psutil.Process) -> bool:
    """Whether it is Prefect's server, which is meant to outlive the runs of its workspace."""
    return "prefect" in words_of(process)


def _mark_of(process: psutil.Process) -> str | None:
    try:
        alive = process.status() != psutil.STATUS_ZOMBIE
        return process.environ().get(MARK) if alive else None
    except (psutil.Error, OSError):
        return None


def words_of(process: psutil.Process) -> str:
    """The command line of a process; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
