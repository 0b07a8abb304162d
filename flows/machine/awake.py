"""Keeps a machine from falling asleep over a run: caffeinate on macOS, systemd-inhibit on Linux, where they are.

Idle sleep only: a lid that is closed still puts a laptop to sleep, as it must in a bag.
"""

from __future__ import annotations

import select
import shutil
import subprocess
from contextlib import suppress

SECONDS_TO_START = 3.0  # measured here: systemd-inhibit fails in 4 ms where no logind answers
INHIBITORS = (
    ("caffeinate", "-is"),
    ("systemd-inhibit", "--what=idle:sleep", "--mode=block", "--who=nanogpt-autopilot", "--why=a training run"),
)


class Awake:
    """A hold on the machine's sleep, which ends with `release` or with this process, however that ends.

    The inhibitor runs `cat` on a pipe that only this process writes to: when the pipe closes, `cat` ends, and the
    inhibitor with it. So nothing outlives a kill -9, and no process id is watched that may become another's.
    """

    def __init__(self) -> None:
        self._inhibitor: _Inhibitor | None = None

    def hold(self) -> str:
        """Keep the machine awake from now on; in words what does, or why nothing can."""
        command = next((list(words) for words in INHIBITORS if shutil.which(words[0])), None)
        if command is None:
            return "nothing here keeps the machine awake: no caffeinate, no systemd-inhibit"
        try:
            inhibitor = _Inhibitor(command)
        except OSError as error:
            return f"nothing here keeps the machine awake: {command[0]}: {error.strerror}"
        if inhibitor.holds():
            self._inhibitor = inhibitor
            return f"the machine stays awake during the run ({command[0]})"
        reason = inhibitor.last_words()
        inhibitor.end()
        return f"nothing here keeps the machine awake: {command[0]}: {reason}"

    def release(self) -> None:
        """Let the machine sleep again."""
        if self._inhibitor is not None:
            self._inhibitor.end()
            self._inhibitor = None


class _Inhibitor:
    """A process of `command` with `cat` under it. Raises OSError when it cannot be started."""

    def __init__(self, command: list[str]):
        self._process = subprocess.Popen(
            [*command, "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if not (self._process.stdin and self._process.stdout and self._process.stderr):
            raise OSError("no pipes")  # as Popen promises, so this only tells the type checker
        self._input, self._output, self._errors = self._process.stdin, self._process.stdout, self._process.stderr

    def holds(self) -> bool:
        """Whether `cat` runs, which it does only once the hold is taken: it gives back what it is given."""
        with suppress(OSError):
            self._input.write(b"awake?\n")
            self._input.flush()
        readable, _, _ = select.select([self._output], [], [], SECONDS_TO_START)
        return bool(readable) and self._output.readline() == b"awake?\n"

    def last_words(self) -> str:
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            return f"no answer within {SECONDS_TO_START:.0f} s"
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:200] if lines else f"ended with code {self._process.returncode}"

    def end(self) -> None:
        with suppress(OSError):  # it is gone already
            self._input.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()
        self._errors.close()
