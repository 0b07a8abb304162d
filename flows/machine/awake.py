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
        self._inhibitor: subprocess.Popen | None = None

    def hold(self) -> str:
        """Keep the machine awake from now on; in words what does, or why nothing can."""
        command = next((list(words) for words in INHIBITORS if shutil.which(words[0])), None)
        if command is None:
            return "nothing here keeps the machine awake: no caffeinate, no systemd-inhibit"
        try:
            self._inhibitor = subprocess.Popen(
                [*command, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return f"nothing here keeps the machine awake: {command[0]}: {error.strerror}"
        if self._holds(self._inhibitor):
            return f"the machine stays awake while the run goes on ({command[0]})"
        reason = self._last_words()
        self.release()
        return f"nothing here keeps the machine awake: {command[0]}: {reason}"

    def release(self) -> None:
        """Let the machine sleep again."""
        if self._inhibitor is None:
            return
        inhibitor, self._inhibitor = self._inhibitor, None
        with suppress(OSError):  # it is gone already
            inhibitor.stdin.close()
        try:
            inhibitor.wait(1)
        except subprocess.TimeoutExpired:
            inhibitor.kill()
            inhibitor.wait()
        inhibitor.stdout.close()
        inhibitor.stderr.close()

    @staticmethod
    def _holds(inhibitor: subprocess.Popen) -> bool:
        """Whether `cat` runs, which it does only once the hold is taken: it gives back what it is told."""
        with suppress(OSError):
            inhibitor.stdin.write(b"awake?\n")
            inhibitor.stdin.flush()
        readable, _, _ = select.select([inhibitor.stdout], [], [], SECONDS_TO_START)
        return bool(readable) and inhibitor.stdout.readline() == b"awake?\n"

    def _last_words(self) -> str:
        try:
            self._inhibitor.wait(0.5)
        except subprocess.TimeoutExpired:
            return f"no answer within {SECONDS_TO_START:.0f} s"
        lines = self._inhibitor.stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:200] if lines else f"ended with code {self._inhibitor.returncode}"
